//! The authorization endpoint (RFC 6749 §3.1, with PKCE: RFC 7636), and the forms of its pages.
//!
//! A browser comes with what a client asks for; whoever sits there logs in and consents, as far as that is needed; and it goes back
//! with a code. What was asked for travels in the pages themselves, in a ticket that only this browser can bring back.

mod back;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};

use self::back::{deny, refuse, way_back};
use super::{
    AUTHORIZE, CONSENT, Endpoint, LOG_IN,
    ask::{ASKED, Ask, Prompt, Refusal, read, whence},
    browsing::{Answer, as_a_get, bad_link, notice, respond, see_other},
    method_not_allowed, visitor,
};
use crate::{
    issuer::{
        Client, Consent, Issuer,
        browser::{BROWSER, Browser, Ticket},
        code::{self, Kept},
        consented::Asked,
        error::Error,
        form::{Form, Param},
        pages::{self, App, Notice, Problem},
        redirect::destination,
        user::{self, Typed},
    },
    store::{NewSession, Record},
    telemetry::audit::{Event, Facts},
    types::{ClientId, Scopes, SessionId},
};

/// The kind of its tickets.
const TICKET: &str = "authorize";

/// A browser that a client has sent, or that has logged in.
pub(in crate::issuer) async fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    let form = match *request.method() {
        Method::GET => Form::parse(request.uri().query().unwrap_or_default().as_bytes()),
        // OpenID Connect Core §3.1.2.1.
        Method::POST => match Form::read(request.headers(), request.body()) {
            Ok(form) => return as_a_get(issuer, AUTHORIZE, &ASKED, &form),
            error => error,
        },
        _ => return method_not_allowed("GET, POST"),
    };
    respond(issuer, request, async |browser| match form {
        Err(error) => Ok(bad_link(issuer, error.reason())),
        Ok(form) => match form.get(Param::Ticket) {
            Some(ticket) => match issuer.browsers.read(browser, TICKET, ticket) {
                Ticket::Fresh(ask) => go_on(issuer, request, browser, ask).await,
                Ticket::Stale(_) => Ok(notice(issuer, Notice::Expired)),
                Ticket::NotOurs => Ok(notice(issuer, Notice::NotOurs)),
            },
            None => begin(issuer, request, browser, &form).await,
        },
    })
    .await
}

/// The form of the page for logging in.
pub(in crate::issuer) async fn log_in(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    answer_form(issuer, request, async |browser, form, ticket| {
        let (username, password) = (form.get(Param::Username).unwrap_or_default(), form.get(Param::Password));
        let ask = match ticket {
            Ticket::Fresh(ask) => ask,
            // The password was typed for nothing; who asked for it is still known, and who is asked.
            Ticket::Stale(ask) => return Ok(log_in_page(issuer, browser, &ask, username, Some(Problem::Expired))),
            Ticket::NotOurs => return Ok(notice(issuer, Notice::NotOurs)),
        };
        let Some(client) = known(issuer, &ask) else { return Ok(notice(issuer, Notice::BadLink)) };
        let (visitor, device) = (visitor(request), issuer.devices.of(request.headers(), username));
        let typed = Typed { username, password: password.unwrap_or_default(), device };
        let found = match user::log_in(issuer, &client, &typed, &visitor).await {
            Err(Error::Throttled(wait)) => {
                return Ok(log_in_page(issuer, browser, &ask, username, Some(Problem::TooMany(wait))));
            }
            found => found?,
        };
        let Some(user) = found else {
            return Ok(log_in_page(issuer, browser, &ask, username, Some(Problem::Wrong)));
        };
        let lifetime = issuer.config.login.lifetime;
        let new = NewSession {
            id: SessionId::generate(&user.subject),
            client: ClientId::new(BROWSER),
            subject: user.subject.clone(),
            scopes: Scopes::default(),
            idle_lifetime: lifetime,
            absolute_lifetime: lifetime,
            access_lifetime: std::time::Duration::ZERO,
            remembered: false,
            max_sessions: None,
            resources: Box::default(),
            key: None,
            visitor,
        };
        let session = issuer.ledger.open(new).await?;
        if !user::is_still_active(issuer, &user.subject, Some(session.id)).await? {
            return Ok(log_in_page(issuer, browser, &ask, username, Some(Problem::Wrong)));
        }
        // To a page of its own, so that neither going back nor loading again sends the password once more.
        let ticket = issuer.browsers.ticket(browser, TICKET, &Ask { login: Some(session.id), ..ask });
        let mut response = see_other(&format!("{}{AUTHORIZE}?ticket={ticket}", issuer.config.url))?;
        let cookie = issuer.browsers.logged_in(&issuer.refresh_tokens.issue(&session));
        response.headers_mut().append(header::SET_COOKIE, cookie);
        let known = issuer.devices.known(request.headers(), username)?;
        response.headers_mut().append(header::SET_COOKIE, known);
        Ok(response)
    })
    .await
}

/// The form of the page for consent.
pub(in crate::issuer) async fn consent(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    answer_form(issuer, request, async |browser, form, ticket| {
        let ask: Ask = match ticket {
            Ticket::Fresh(ask) => ask,
            Ticket::Stale(_) => return Ok(notice(issuer, Notice::Expired)),
            Ticket::NotOurs => return Ok(notice(issuer, Notice::NotOurs)),
        };
        let Some(client) = known(issuer, &ask) else { return Ok(notice(issuer, Notice::BadLink)) };
        let login = recent_login(issuer, request, &ask).await?;
        match (form.get(Param::Decision), login) {
            (Some("allow"), Some(login)) => {
                let scopes = Scopes::parse(&ask.scopes).unwrap_or_default();
                let asked = asked(&client, &ask, &scopes);
                let cookie = issuer.remember_consent(request.headers(), login.session.id, &asked);
                with(cookie, grant(issuer, request, &client, &ask, &login).await)
            }
            (Some("deny"), login) => {
                // Whoever says no now does not mean what was said before.
                let cookie =
                    login.and_then(|login| issuer.forget_consent(request.headers(), login.session.id, &client));
                with(cookie, deny(issuer, request, &ask))
            }
            // It has ended meanwhile, or somebody else is to log in.
            (Some("allow" | "switch"), _) => Ok(log_in_page(issuer, browser, &ask, "", None)),
            _ => Ok(notice(issuer, Notice::NotOurs)),
        }
    })
    .await
}

/// An answer that sets a cookie, where there is one to set.
fn with(cookie: Option<HeaderValue>, answer: Answer) -> Answer {
    let mut response = answer?;
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Has a form of ours answered.
async fn answer_form(
    issuer: &Issuer,
    request: &Request<Bytes>,
    answer: impl AsyncFnOnce(&Browser, &Form, Ticket<Ask>) -> Answer,
) -> Response<Bytes> {
    if request.method() != Method::POST {
        return method_not_allowed("POST");
    }
    respond(issuer, request, async |browser| {
        let Ok(form) = Form::read(request.headers(), request.body()) else {
            return Ok(notice(issuer, Notice::NotOurs));
        };
        let ticket = issuer.browsers.read(browser, TICKET, form.get(Param::Ticket).unwrap_or_default());
        answer(browser, &form, ticket).await
    })
    .await
}

/// A client has sent a browser here.
async fn begin(issuer: &Issuer, request: &Request<Bytes>, browser: &Browser, form: &Form) -> Answer {
    let (client, redirect_uri) = match whence(issuer, form) {
        Ok(whence) => whence,
        Err(why) => return Ok(bad_link(issuer, why)),
    };
    issuer.count_named_client(Endpoint::Authorize, &client, &visitor(request))?;
    let ask = Ask {
        client: client.id.as_str().into(),
        redirect_uri: redirect_uri.into(),
        state: form.get(Param::State).map(Into::into),
        scopes: Box::default(),
        challenge: None,
        nonce: form.get(Param::Nonce).map(Into::into),
        prompt: Prompt::default(),
        max_age: None,
        login_hint: form.get(Param::LoginHint).unwrap_or_default().into(),
        resources: Box::default(),
        key: None,
        login: None,
    };
    match read(issuer, &client, form, ask.clone()) {
        Ok(ask) => go_on(issuer, request, browser, ask).await,
        Err(Refusal(error, why)) => refuse(issuer, request, &client, &ask, error, why),
    }
}

/// The client of an ask, which may be gone since the page was made.
fn known(issuer: &Issuer, ask: &Ask) -> Option<Arc<Client>> {
    issuer.enabled_client(&ask.client)
}

/// What a user is asked for.
fn asked<'a>(client: &'a Client, ask: &'a Ask, scopes: &'a Scopes) -> Asked<'a> {
    Asked { client, redirect_uri: &ask.redirect_uri, scopes, resources: &ask.resources }
}

/// Asks for what is missing yet, or gives a code.
async fn go_on(issuer: &Issuer, request: &Request<Bytes>, browser: &Browser, ask: Ask) -> Answer {
    let Some(client) = known(issuer, &ask) else { return Ok(notice(issuer, Notice::BadLink)) };
    let Some(login) = recent_login(issuer, request, &ask).await? else {
        return if ask.prompt.none {
            refuse(issuer, request, &client, &ask, "login_required", "Nobody is logged in.")
        } else {
            Ok(log_in_page(issuer, browser, &ask, &ask.login_hint, None))
        };
    };
    let scopes = Scopes::parse(&ask.scopes).unwrap_or_default();
    let agreed = client.consent == Consent::Skip
        || issuer.has_consented(request.headers(), login.session.id, &asked(&client, &ask, &scopes));
    if agreed && !ask.prompt.consent {
        return grant(issuer, request, &client, &ask, &login).await;
    }
    if ask.prompt.none {
        return refuse(issuer, request, &client, &ask, "consent_required", "The user has to be asked.");
    }
    let ticket = issuer.browsers.ticket(browser, TICKET, &ask);
    let action = format!("{}{CONSENT}", issuer.base());
    let user = issuer.active_user(&login.session.subject).await?;
    let username = user.as_ref().map_or("", |user| &user.username);
    let form = pages::Form { action: &action, ticket: &ticket };
    Ok(issuer.look.consent(form, App::from(&*client), username, &scopes, destination(&ask.redirect_uri)))
}

/// Who is logged in at the browser, if that is recent enough for the client.
async fn recent_login(issuer: &Issuer, request: &Request<Bytes>, ask: &Ask) -> Result<Option<Record>, Error> {
    let Some(login) = issuer.login_of(request.headers()).await? else { return Ok(None) };
    if issuer.active_user(&login.session.subject).await?.is_none() {
        return Ok(None);
    }
    let now = issuer.clock.now();
    let recent = !ask.prompt.login
        && ask.max_age.is_none_or(|most| now.since(login.opened).unwrap_or_default().as_secs() <= most);
    Ok(Some(login).filter(|login| recent || ask.login == Some(login.session.id)))
}

fn log_in_page(
    issuer: &Issuer,
    browser: &Browser,
    ask: &Ask,
    username: &str,
    problem: Option<Problem>,
) -> Response<Bytes> {
    let Some(client) = known(issuer, ask) else { return notice(issuer, Notice::BadLink) };
    let ticket = issuer.browsers.ticket(browser, TICKET, ask);
    let action = format!("{}{LOG_IN}", issuer.base());
    issuer.look.log_in(pages::Form { action: &action, ticket: &ticket }, App::from(&*client), username, problem)
}

/// Sends the browser back with a code.
async fn grant(issuer: &Issuer, request: &Request<Bytes>, client: &Client, ask: &Ask, login: &Record) -> Answer {
    // What the client may have can have become less since it asked.
    let asked = Scopes::parse(&ask.scopes).unwrap_or_default();
    let scopes = Scopes::from_values(asked.iter().filter(|scope| client.scopes.contains(scope)));
    let subject = &login.session.subject;
    let kept = Kept {
        client: ask.client.clone(),
        redirect_uri: ask.redirect_uri.clone(),
        challenge: ask.challenge,
        nonce: ask.nonce.clone(),
        subject: subject.as_str().into(),
        scopes: scopes.to_string().into(),
        resources: ask.resources.clone(),
        key: ask.key,
        login: login.session.id,
    };
    let code = code::generate(subject)?;
    issuer.ledger.keep_code(code::digest_of(&code), kept.encode(), code::LIFETIME).await?;
    let visitor = visitor(request);
    let facts = Facts {
        client: Some(&client.id),
        subject: Some(subject.as_str()),
        session: Some(login.session.id),
        scope: Some(&scopes),
        ..Facts::from(&visitor)
    };
    issuer.audit.tell(Event::Authorized, facts);
    see_other(&way_back(issuer, ask, &[("code", &code)]))
}
