//! What people see at a browser: a page for logging in, one for consent, one for logging out, and one that says something. No
//! scripts; every text is in [`text`].

mod text;

use std::{sync::Arc, time::Duration};

use askama::Template;
use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use self::text::{TEXT, Text};
use super::{Client, Login, error::forbid_storing};
use crate::types::Scopes;

pub(super) use self::text::Notice;

/// How all of them look, and what goes along with each.
pub(super) struct Look {
    name: Arc<str>,
    logo: Option<Arc<str>>,
    style: String,
    policy: HeaderValue,
}

impl Look {
    pub(super) fn new(login: &Login) -> Self {
        let [red, green, blue] = login.color;
        let (light, dark) = (visible(login.color, LIGHT, 0), visible(login.color, DARK, 255));
        let accent = format!("#{red:02x}{green:02x}{blue:02x}");
        let on = if contrast(login.color, [255; 3]) >= contrast(login.color, [0; 3]) { "#fff" } else { "#000" };
        let style = format!(
            ":root{{--accent:{accent};--on:{on};--ring:{light}}}@media (prefers-color-scheme:dark){{:root{{--ring:{dark}}}}}{}",
            include_str!("style.css")
        );
        let hash = STANDARD.encode(digest::digest(&digest::SHA256, style.as_bytes()));
        // No form-action: browsers apply it to where a form's answer leads as well, and an app may lead on to anywhere.
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
        );
        let policy = HeaderValue::try_from(policy).expect("it is ASCII");
        Self { name: login.name.clone(), logo: login.logo.clone(), style, policy }
    }

    fn respond(&self, status: StatusCode, page: &impl Template) -> Response<Bytes> {
        let page = page.render().expect("it is written into memory");
        let mut response = Response::new(Bytes::from(page));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        forbid_storing(headers);
        response
    }

    /// Asks who somebody is. `problem` is why they are asked again.
    pub(super) fn log_in(
        &self,
        form: Form<'_>,
        app: App<'_>,
        username: &str,
        problem: Option<Problem>,
    ) -> Response<Bytes> {
        let status = match problem {
            None | Some(Problem::Expired) => StatusCode::OK,
            Some(Problem::Wrong) => StatusCode::FORBIDDEN,
            Some(Problem::TooMany(_)) => StatusCode::TOO_MANY_REQUESTS,
        };
        let message = problem.map(|problem| match problem {
            Problem::Wrong => TEXT.wrong.to_owned(),
            Problem::Expired => TEXT.expired.to_owned(),
            Problem::TooMany(wait) => text::too_many(wait),
        });
        let Form { action, ticket } = form;
        let page = LogIn { look: self, text: &TEXT, app, problem: message, action, ticket, username };
        let mut response = self.respond(status, &page);
        if let Some(Problem::TooMany(wait)) = problem {
            response.headers_mut().insert(header::RETRY_AFTER, wait.as_secs().into());
        }
        response
    }

    /// Asks whether a client may have what it asks for.
    pub(super) fn consent(
        &self,
        form: Form<'_>,
        app: App<'_>,
        username: &str,
        scopes: &Scopes,
        destination: &str,
    ) -> Response<Bytes> {
        let scopes = scopes.iter().map(text::scope).collect();
        let Form { action, ticket } = form;
        let page = Consent { look: self, text: &TEXT, app, scopes, destination, action, ticket, username };
        self.respond(StatusCode::OK, &page)
    }

    /// Asks whether somebody wants to log out. `client` has sent them, if any has; `goes_on` if there is a way back to it.
    pub(super) fn log_out(
        &self,
        form: Form<'_>,
        username: &str,
        client: Option<&str>,
        goes_on: bool,
    ) -> Response<Bytes> {
        let Form { action, ticket } = form;
        self.respond(StatusCode::OK, &LogOut { look: self, text: &TEXT, client, goes_on, action, ticket, username })
    }

    /// Says something. `detail` is for whoever has to mend it.
    pub(super) fn notice(&self, status: StatusCode, notice: Notice, detail: Option<&str>) -> Response<Bytes> {
        let (title, message) = notice.text();
        let is_error = !status.is_success();
        self.respond(status, &Say { look: self, title, message, detail, is_error })
    }

    /// Says that an app cannot be answered, and lets whoever is there go back to it.
    pub(super) fn way_back(&self, app: App<'_>, why: &str, to: &str, destination: &str) -> Response<Bytes> {
        let (title, _) = Notice::BadLink.text();
        self.respond(StatusCode::BAD_REQUEST, &WayBack { look: self, text: &TEXT, title, app, why, to, destination })
    }
}

/// Who asks, as people are told.
#[derive(Clone, Copy)]
pub(super) struct App<'a> {
    pub(super) name: &'a str,
    /// Whether nobody but the app itself says that it is called so.
    pub(super) registered_itself: bool,
}

impl<'a> From<&'a Client> for App<'a> {
    fn from(client: &'a Client) -> Self {
        Self { name: &client.name, registered_itself: client.registered_itself }
    }
}

/// Where a form goes, and what shows that it is ours.
#[derive(Clone, Copy)]
pub(super) struct Form<'a> {
    pub(super) action: &'a str,
    pub(super) ticket: &'a str,
}

/// Why somebody is asked again who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The name or the password was wrong.
    Wrong,
    /// The page had been open for too long.
    Expired,
    /// Too many have failed before: nothing was looked at, and will not be before this has passed.
    TooMany(Duration),
}

#[derive(Template)]
#[template(path = "log_in.html")]
struct LogIn<'a> {
    look: &'a Look,
    text: &'a Text,
    app: App<'a>,
    problem: Option<String>,
    action: &'a str,
    ticket: &'a str,
    username: &'a str,
}

#[derive(Template)]
#[template(path = "consent.html")]
struct Consent<'a> {
    look: &'a Look,
    text: &'a Text,
    app: App<'a>,
    scopes: Vec<&'a str>,
    destination: &'a str,
    action: &'a str,
    ticket: &'a str,
    username: &'a str,
}

#[derive(Template)]
#[template(path = "log_out.html")]
struct LogOut<'a> {
    look: &'a Look,
    text: &'a Text,
    client: Option<&'a str>,
    goes_on: bool,
    action: &'a str,
    ticket: &'a str,
    username: &'a str,
}

#[derive(Template)]
#[template(path = "notice.html")]
struct Say<'a> {
    look: &'a Look,
    title: &'a str,
    message: &'a str,
    detail: Option<&'a str>,
    is_error: bool,
}

#[derive(Template)]
#[template(path = "way_back.html")]
struct WayBack<'a> {
    look: &'a Look,
    text: &'a Text,
    title: &'a str,
    app: App<'a>,
    why: &'a str,
    to: &'a str,
    destination: &'a str,
}

/// What is behind everything that can be pressed; the same as in style.css.
const LIGHT: [u8; 3] = [255; 3];
const DARK: [u8; 3] = [0x1e, 0x1e, 0x22];

/// How well a ring around something has to be seen. WCAG 2.2, 1.4.11, is content with 3 to 1; but a ring is thin.
const VISIBLE: f64 = 4.5;

/// The colour, or the nearest on the way to black or white (`end`) that is seen on that ground.
fn visible(color: [u8; 3], ground: [u8; 3], end: u8) -> String {
    let mixed = |n: u16| color.map(|part| ((u16::from(part) * (16 - n) + u16::from(end) * n) / 16) as u8);
    hex((0..=16).map(mixed).find(|color| contrast(*color, ground) >= VISIBLE).unwrap_or([end; 3]))
}

fn hex([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// How well one can be read on the other, from 1 to 21 (WCAG 2.2, contrast ratio).
fn contrast(one: [u8; 3], other: [u8; 3]) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

fn luminance(color: [u8; 3]) -> f64 {
    let [red, green, blue] = color.map(|part| {
        let part = f64::from(part) / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    });
    0.2126 * red + 0.7152 * green + 0.0722 * blue
}

#[cfg(test)]
mod tests {
    use super::{DARK, LIGHT, VISIBLE, contrast, visible};

    #[test]
    fn what_has_the_focus_is_seen_whatever_the_colour() {
        let read = |hex: String| [1, 3, 5].map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        let steps = || (0..=255).step_by(15);
        for red in steps() {
            for (green, blue) in steps().flat_map(|green| steps().map(move |blue| (green, blue))) {
                let color = [red, green, blue];
                for (ground, end) in [(LIGHT, 0), (DARK, 255)] {
                    let ring = read(visible(color, ground, end));
                    assert!(contrast(ring, ground) >= VISIBLE, "{color:?} on {ground:?}: {ring:?}");
                    // What is seen as it is stays as it is.
                    assert_eq!(ring == color, contrast(color, ground) >= VISIBLE, "{color:?} on {ground:?}: {ring:?}");
                }
            }
        }
    }
}
