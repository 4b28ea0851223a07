//! Logging out at a browser, which clients can ask for as well (OpenID Connect RP-Initiated Logout 1.0).
//!
//! A client that shows an ID token of whoever is logged in has them logged out at once. Everybody else is asked by a page of our own,
//! so that no other site can do it; where the browser goes on to travels in that page, in a ticket that only this browser can
//! bring back.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::{
    LOG_OUT,
    browsing::{Answer, as_a_get, bad_link, notice, respond, see_other},
    method_not_allowed, visitor,
};
use crate::{
    issuer::{
        By, Client, Issuer,
        browser::{Browser, Ticket},
        error::Error,
        form::{Form, Param},
        id_token::Hint,
        ledger::Cause,
        pages::{self, Notice},
    },
    store::Revoked,
    types::{ClientId, SessionId, Subject},
};

/// The kind of its tickets.
const TICKET: &str = "logout";

/// Why, for the log.
const REASON: &str = "its user has logged out";

/// Where a browser goes on to when it is done, as a client has asked for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Onward {
    client: Box<str>,
    uri: Box<str>,
    state: Option<Box<str>>,
}

/// What a client can ask for.
const ASKED: [Param; 4] = [Param::IdTokenHint, Param::ClientId, Param::PostLogoutRedirectUri, Param::State];

pub(in crate::issuer) async fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    let form = match *request.method() {
        Method::GET => Form::parse(request.uri().query().unwrap_or_default().as_bytes()),
        Method::POST => match Form::read(request.headers(), request.body()) {
            Ok(form) if form.get(Param::Ticket).is_none() => return as_a_get(issuer, LOG_OUT, &ASKED, &form),
            form => form,
        },
        _ => return method_not_allowed("GET, POST"),
    };
    respond(issuer, request, async |browser| match form {
        Err(error) => Ok(bad_link(issuer, error.reason())),
        Ok(form) if request.method() == Method::POST => confirmed(issuer, request, browser, &form).await,
        Ok(form) => begin(issuer, request, browser, &form).await,
    })
    .await
}

/// Somebody has come here, or a client has sent them.
async fn begin(issuer: &Issuer, request: &Request<Bytes>, browser: &Browser, form: &Form) -> Answer {
    // §4: what cannot be verified is not used; who asks is then who they say, or nobody.
    let hint = form.get(Param::IdTokenHint).and_then(|token| issuer.hint(token));
    let (client, onward) = match whither(issuer, form, hint.as_ref()) {
        Ok(found) => found,
        Err(why) => return Ok(bad_link(issuer, why)),
    };
    let login = issuer.login_of(request.headers()).await?;
    if let Some(Hint { client, subject, session }) = &hint {
        // Whoever shows this has been told by us that the session is theirs, whoever is logged in here now.
        end(issuer, request, *session, subject, Some(&client.id)).await?;
    }
    let Some(login) = login else { return done(issuer, request, onward) };
    let subject = &login.session.subject;
    if hint.is_some_and(|hint| hint.subject == *subject) {
        end(issuer, request, login.session.id, subject, client.as_ref().map(|client| &client.id)).await?;
        return done(issuer, request, onward);
    }
    let ticket = issuer.browsers.ticket(browser, TICKET, &onward);
    let action = format!("{}{LOG_OUT}", issuer.base());
    // A user base that is away keeps nobody from logging out.
    let user = issuer.active_user(subject).await.ok().flatten();
    let username = user.as_ref().map_or("", |user| &*user.username);
    let form = pages::Form { action: &action, ticket: &ticket };
    Ok(issuer.look.log_out(form, username, client.as_ref().map(|client| &*client.name), onward.is_some()))
}

/// The client that asks, as far as that is known, and where the browser is to go on to. Nobody is sent anywhere for a client that is
/// not known (§3); who wants to log out can do so all the same.
fn whither(
    issuer: &Issuer,
    form: &Form,
    hint: Option<&Hint>,
) -> Result<(Option<Arc<Client>>, Option<Onward>), &'static str> {
    let client = match (form.get(Param::ClientId), hint) {
        (Some(id), Some(hint)) if *id != *hint.client.id.as_str() => {
            return Err("The client_id is not that of the id_token_hint.");
        }
        (Some(id), _) => Some(issuer.enabled_client(id).ok_or("The client is not known.")?),
        (None, hint) => hint.map(|hint| hint.client.clone()),
    };
    let Some(uri) = form.get(Param::PostLogoutRedirectUri) else { return Ok((client, None)) };
    let Some(client) = client else { return Ok((None, None)) };
    if !client.post_logout_redirect_uris.iter().any(|own| own.is(uri)) {
        return Err("The post_logout_redirect_uri is not one that the client has registered.");
    }
    let state = form.get(Param::State).map(Into::into);
    let onward = Onward { client: client.id.as_str().into(), uri: uri.into(), state };
    Ok((Some(client), Some(onward)))
}

/// The form of our page.
async fn confirmed(issuer: &Issuer, request: &Request<Bytes>, browser: &Browser, form: &Form) -> Answer {
    let ticket = form.get(Param::Ticket).unwrap_or_default();
    let onward = match issuer.browsers.read::<Option<Onward>>(browser, TICKET, ticket) {
        // However long the page was open: it means the same.
        Ticket::Fresh(onward) | Ticket::Stale(onward) => onward,
        Ticket::NotOurs => return Ok(notice(issuer, Notice::NotOurs)),
    };
    if form.get(Param::Decision) == Some("stay") {
        return go_on(issuer, onward).unwrap_or_else(|| Ok(notice(issuer, Notice::NotOurs)));
    }
    if let Some(login) = issuer.login_of(request.headers()).await? {
        end(issuer, request, login.session.id, &login.session.subject, None).await?;
    }
    done(issuer, request, onward)
}

/// Ends a session of a user's: a login, or a client's.
async fn end(
    issuer: &Issuer,
    request: &Request<Bytes>,
    session: SessionId,
    subject: &Subject,
    client: Option<&ClientId>,
) -> Result<(), Error> {
    // Not the blacklist, which may know before the gateway does.
    if issuer.ledger.has(&Revoked::Session(session.to_string().into())) {
        return Ok(());
    }
    let by = By {
        client: client.cloned(),
        subject: Some(subject.clone()),
        visitor: visitor(request),
        ..Cause::LoggedOut.into()
    };
    issuer.ledger.revoke_session(session, by, REASON).await?;
    Ok(())
}

/// Nobody is logged in at the browser any more.
fn done(issuer: &Issuer, request: &Request<Bytes>, onward: Option<Onward>) -> Answer {
    let logged_out = || Ok(issuer.look.notice(StatusCode::OK, Notice::LoggedOut, None));
    let mut response = go_on(issuer, onward).unwrap_or_else(logged_out)?;
    if let Some(cookie) = issuer.browsers.logged_out(request.headers()) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Sends the browser on, unless the client is gone since it has asked.
fn go_on(issuer: &Issuer, onward: Option<Onward>) -> Option<Answer> {
    let Onward { client, uri, state } = onward?;
    let client = issuer.enabled_client(&client)?;
    if !client.post_logout_redirect_uris.iter().any(|own| own.is(&uri)) {
        return None;
    }
    let Some(state) = state else { return Some(see_other(&uri)) };
    let separator = if uri.contains('?') { '&' } else { '?' };
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("state", &state).finish();
    Some(see_other(&format!("{uri}{separator}{query}")))
}
