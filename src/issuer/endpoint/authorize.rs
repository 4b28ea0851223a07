//! The authorization endpoint (RFC 6749 §3.1, with PKCE: RFC 7636), and the forms of its pages.
//!
//! A browser comes with what a client asks for; whoever sits there logs in and consents, as far as that is needed; and it goes back
//! with a code. What was asked for travels in the pages themselves, in a ticket that only this browser can bring back.

mod back;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use self::back::{deny, refuse, way_back};
use super::{AUTHORIZE, CONSENT, LOG_IN, method_not_allowed, visitor};
use crate::{
    issuer::{
        Client, Consent, GrantType, Issuer,
        browser::{BROWSER, Browser, Ticket},
        code::{self, Kept},
        error::{Error, forbid_storing},
        form::{Form, Param},
        grant::{requested_resources, requested_scopes},
        pages::{self, App, Notice, Problem},
        redirect::destination,
        user::{self, Typed},
    },
    store::{NewSession, Record},
    telemetry::audit::{Event, Facts},
    types::{ClientId, Scopes, SessionId, Thumbprint},
};

/// The kind of its tickets.
const TICKET: &str = "authorize";

/// What a client asks for, checked. It is the client's to say, and ours once it is in a ticket.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Ask {
    client: Box<str>,
    redirect_uri: Box<str>,
    state: Option<Box<str>>,
    scopes: Box<str>,
    challenge: Option<[u8; 32]>,
    nonce: Option<Box<str>>,
    prompt: Prompt,
    /// How long ago the login may be, in seconds.
    max_age: Option<u64>,
    login_hint: Box<str>,
    /// What tokens are to be for (RFC 8707 §2.1).
    resources: Box<[Box<str>]>,
    /// The key that the code is to be good with (RFC 9449 §10).
    key: Option<Thumbprint>,
    /// The login that came of a page of this ask: it is recent enough, whatever was asked for.
    login: Option<SessionId>,
}

/// What a client wants its user to be asked (OpenID Connect Core §3.1.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Prompt {
    none: bool,
    login: bool,
    consent: bool,
}

/// Why a browser gets no code, as the client is told: the error (RFC 6749 §4.1.2.1), and why for people.
struct Refusal(&'static str, &'static str);

/// What answers a browser, or why nothing better does.
type Answer = Result<Response<Bytes>, Error>;

/// A browser that a client has sent, or that has logged in.
pub(in crate::issuer) async fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    let form = match *request.method() {
        Method::GET => Form::parse(request.uri().query().unwrap_or_default().as_bytes()),
        Method::POST => Form::read(request.headers(), request.body()),
        _ => return method_not_allowed("GET, POST"),
    };
    respond(issuer, request, async |browser| match form {
        Err(error) => Ok(issuer.look.notice(StatusCode::BAD_REQUEST, Notice::BadLink, Some(error.reason()))),
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
            (Some("allow"), Some(login)) => grant(issuer, request, &client, &ask, &login).await,
            (Some("deny"), _) => deny(issuer, request, &ask),
            // It has ended meanwhile, or somebody else is to log in.
            (Some("allow" | "switch"), _) => Ok(log_in_page(issuer, browser, &ask, "", None)),
            _ => Ok(notice(issuer, Notice::NotOurs)),
        }
    })
    .await
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

/// Answers a browser, and marks it where it is new.
pub(super) async fn respond(
    issuer: &Issuer,
    request: &Request<Bytes>,
    answer: impl AsyncFnOnce(&Browser) -> Answer,
) -> Response<Bytes> {
    let browser = match issuer.browsers.of(request.headers()) {
        Ok(browser) => browser,
        Err(cause) => return failed(issuer, &cause.into()),
    };
    let mut response = answer(&browser).await.unwrap_or_else(|error| failed(issuer, &error));
    if let Some(cookie) = issuer.browsers.marked(&browser) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

pub(super) fn failed(issuer: &Issuer, error: &Error) -> Response<Bytes> {
    // Its status, its place in the log and when to try again are those of any other answer.
    let plain = error.response();
    let what = if plain.status() == StatusCode::SERVICE_UNAVAILABLE { Notice::Unavailable } else { Notice::Failed };
    let mut response = issuer.look.notice(plain.status(), what, None);
    if let Some(after) = plain.headers().get(header::RETRY_AFTER) {
        response.headers_mut().insert(header::RETRY_AFTER, after.clone());
    }
    response
}

pub(super) fn notice(issuer: &Issuer, what: Notice) -> Response<Bytes> {
    issuer.look.notice(StatusCode::BAD_REQUEST, what, None)
}

/// A client has sent a browser here.
async fn begin(issuer: &Issuer, request: &Request<Bytes>, browser: &Browser, form: &Form) -> Answer {
    let here = |why| Ok(issuer.look.notice(StatusCode::BAD_REQUEST, Notice::BadLink, Some(why)));
    let (client, redirect_uri) = match whence(issuer, form) {
        Ok(whence) => whence,
        Err(why) => return here(why),
    };
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

/// The client that asks, and where the browser is to go back to; as long as that is not known, nobody is sent anywhere.
fn whence(issuer: &Issuer, form: &Form) -> Result<(Arc<Client>, String), &'static str> {
    let id = form.get(Param::ClientId).ok_or("client_id is missing.")?;
    let client = issuer.enabled_client(id).ok_or("The client is not known.")?;
    let redirect_uri = match (form.get(Param::RedirectUri), &client.redirect_uris[..]) {
        (Some(asked), own) if own.iter().any(|uri| uri.is(asked)) => asked,
        (Some(_), _) => return Err("The redirect_uri is not one that the client has registered."),
        (None, [only]) => only.as_str(),
        (None, _) => return Err("redirect_uri is missing."),
    };
    let redirect_uri = redirect_uri.to_owned();
    Ok((client, redirect_uri))
}

/// Reads the rest of what a client asks for.
fn read(issuer: &Issuer, client: &Client, form: &Form, ask: Ask) -> Result<Ask, Refusal> {
    let invalid = |why| Refusal("invalid_request", why);
    if form.get(Param::Request).is_some() {
        return Err(Refusal("request_not_supported", "Request objects are not supported."));
    }
    if form.get(Param::RequestUri).is_some() {
        return Err(Refusal("request_uri_not_supported", "Request objects are not supported."));
    }
    match form.get(Param::ResponseType) {
        Some("code") => {}
        Some(_) => return Err(Refusal("unsupported_response_type", "The one response_type is code.")),
        None => return Err(invalid("response_type is missing.")),
    }
    if form.get(Param::ResponseMode).is_some_and(|mode| mode != "query") {
        return Err(invalid("The one response_mode is query."));
    }
    if !client.grants.contains(&GrantType::AuthorizationCode) {
        return Err(Refusal("unauthorized_client", "The client is not allowed to ask for a code."));
    }
    let challenge = match (form.get(Param::CodeChallenge), form.get(Param::CodeChallengeMethod)) {
        (Some(challenge), Some("S256")) => {
            let challenge = URL_SAFE_NO_PAD.decode(challenge).ok().and_then(|bytes| bytes.try_into().ok());
            Some(challenge.ok_or_else(|| invalid("code_challenge is not the S256 of anything."))?)
        }
        (Some(_), _) => return Err(invalid("The one code_challenge_method is S256.")),
        (None, Some(_)) => return Err(invalid("code_challenge is missing.")),
        // RFC 9700 §2.1.1.
        (None, None) if client.is_public() => {
            return Err(invalid("A public client must use PKCE: code_challenge is missing."));
        }
        (None, None) => None,
    };
    let scopes = requested_scopes(form, &client.scopes)
        .map_err(|_| Refusal("invalid_scope", "The scope is malformed or goes beyond what the client may have."))?;
    let resources = requested_resources(issuer, form, &[])
        .map_err(|_| Refusal("invalid_target", "The resource is not one that tokens can be for."))?;
    let mut prompt = Prompt::default();
    for word in form.get(Param::Prompt).unwrap_or_default().split(' ').filter(|word| !word.is_empty()) {
        match word {
            "none" => prompt.none = true,
            // There is nothing to select from but by logging in.
            "login" | "select_account" => prompt.login = true,
            "consent" => prompt.consent = true,
            _ => return Err(invalid("prompt is none, or of login, consent and select_account.")),
        }
    }
    if prompt.none && (prompt.login || prompt.consent) {
        return Err(invalid("prompt=none cannot be said with others."));
    }
    let max_age = match form.get(Param::MaxAge) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| invalid("max_age is a number of seconds."))?),
    };
    let key = match form.get(Param::DpopJkt) {
        None => None,
        Some(text) => {
            let key = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
            Some(key.ok_or_else(|| invalid("dpop_jkt is not the thumbprint of a key."))?)
        }
    };
    Ok(Ask { scopes: scopes.to_string().into(), challenge, prompt, max_age, resources, key, ..ask })
}

/// The client of an ask, which may be gone since the page was made.
fn known(issuer: &Issuer, ask: &Ask) -> Option<Arc<Client>> {
    issuer.enabled_client(&ask.client)
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
    if client.consent == Consent::Skip && !ask.prompt.consent {
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
    let scopes = Scopes::parse(&ask.scopes).unwrap_or_default();
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

/// A GET there, whatever this was (RFC 9700 §4.12).
pub(super) fn see_other(to: &str) -> Answer {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    let to = HeaderValue::try_from(to)
        .map_err(|_| Error::InvalidRequest("What was asked for cannot be sent back.".into()))?;
    headers.insert(header::LOCATION, to);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    forbid_storing(headers);
    Ok(response)
}
