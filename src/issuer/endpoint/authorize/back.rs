//! How a browser goes back to the client that has sent it (RFC 6749 §4.1.2).

use bytes::Bytes;
use http::Request;

use super::super::{
    ask::Ask,
    browsing::{Answer, see_other},
};
use crate::{
    issuer::{Client, Issuer, endpoint::visitor, pages::App, redirect::destination},
    telemetry::audit::{Event, Facts},
    types::{ClientId, Visitor},
};

/// Sends the browser back with an error (RFC 6749 §4.1.2.1). A client that has registered itself can be anybody's, and made to have
/// people sent on from here to a place that this issuer seems to vouch for: there, they are told, and go on themselves if they want to
/// (RFC 9700 §4.11.2).
pub(super) fn refuse(
    issuer: &Issuer,
    request: &Request<Bytes>,
    client: &Client,
    ask: &Ask,
    error: &'static str,
    why: &str,
) -> Answer {
    tell_refused(issuer, request, ask, error, why);
    let to = way_back(issuer, ask, &[("error", error), ("error_description", why)]);
    if client.registered_itself {
        return Ok(issuer.look.way_back(App::from(client), why, &to, destination(&ask.redirect_uri)));
    }
    see_other(&to)
}

/// The same where somebody at the browser has decided so.
pub(super) fn deny(issuer: &Issuer, request: &Request<Bytes>, ask: &Ask) -> Answer {
    let (error, why) = ("access_denied", "The user has refused.");
    tell_refused(issuer, request, ask, error, why);
    see_other(&way_back(issuer, ask, &[("error", error), ("error_description", why)]))
}

fn tell_refused(issuer: &Issuer, request: &Request<Bytes>, ask: &Ask, error: &'static str, why: &str) {
    let client = ClientId::new(&*ask.client);
    let visitor: Visitor = visitor(request);
    let facts = Facts { client: Some(&client), error: Some(error), reason: Some(why), ..Facts::from(&visitor) };
    issuer.audit.tell(Event::AuthorizationRefused, facts);
}

/// Where the browser goes back to, with who sends it (RFC 9207).
pub(super) fn way_back(issuer: &Issuer, ask: &Ask, parameters: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parameters);
    if let Some(state) = &ask.state {
        query.append_pair("state", state);
    }
    query.append_pair("iss", issuer.config.url.as_str());
    let separator = if ask.redirect_uri.contains('?') { '&' } else { '?' };
    format!("{}{separator}{}", ask.redirect_uri, query.finish())
}
