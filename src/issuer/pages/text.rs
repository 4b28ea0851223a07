//! Every text of the pages.

use std::time::Duration;

use crate::issuer::{
    OFFLINE_ACCESS,
    id_token::{OPENID, PROFILE},
};

/// What the pages say.
pub(super) struct Text {
    pub(super) log_in: &'static str,
    pub(super) to_go_on_to: &'static str,
    pub(super) username: &'static str,
    pub(super) password: &'static str,
    pub(super) wrong: &'static str,
    pub(super) expired: &'static str,
    pub(super) allow_access: &'static str,
    pub(super) asks_for_access: &'static str,
    pub(super) will_go_to: &'static str,
    pub(super) registered_itself: &'static str,
    pub(super) cannot_be_answered: &'static str,
    pub(super) go_back_to: &'static str,
    pub(super) allow: &'static str,
    pub(super) deny: &'static str,
    pub(super) logged_in_as: &'static str,
    pub(super) somebody_else: &'static str,
    pub(super) log_out: &'static str,
    pub(super) log_out_question: &'static str,
    pub(super) sends_to_log_out: &'static str,
    pub(super) log_out_means: &'static str,
    pub(super) stay: &'static str,
}

pub(super) static TEXT: Text = Text {
    log_in: "Log in",
    to_go_on_to: "to go on to",
    username: "Username",
    password: "Password",
    wrong: "The username or the password is wrong.",
    expired: "This page was open for too long. Please log in again.",
    allow_access: "Allow access?",
    asks_for_access: "asks for access to your account.",
    will_go_to: "Afterwards you go on to",
    registered_itself: "This app has registered itself here. Nobody has checked that it is what it calls itself: look at where it \
                        sends you.",
    cannot_be_answered: "has sent you here, and has asked in a way that cannot be answered.",
    go_back_to: "Go back to",
    allow: "Allow",
    deny: "Deny",
    logged_in_as: "You are logged in as",
    somebody_else: "Log in as somebody else",
    log_out: "Log out",
    log_out_question: "Log out?",
    sends_to_log_out: "has sent you here to log out.",
    log_out_means: "This ends your login at this browser. Apps keep their own sessions until you log out there.",
    stay: "Stay logged in",
};

/// Why nobody can log in for so long. It is the same whoever they say they are.
pub(super) fn too_many(wait: Duration) -> String {
    match wait.as_secs() {
        ..=1 => "There were too many failed tries. Please try again in a second.".into(),
        seconds => format!("There were too many failed tries. Please try again in {seconds} seconds."),
    }
}

/// What a scope lets an app do, where OpenID Connect has a name for it that says nothing to people; any other is its own name.
pub(super) fn scope(name: &str) -> &str {
    match name {
        OPENID => "Know that it is you",
        PROFILE => "See your username",
        OFFLINE_ACCESS => "Stay connected while you are away",
        other => other,
    }
}

/// What a page says that asks nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::issuer) enum Notice {
    /// The link of an app is wrong.
    BadLink,
    /// The form did not come from a page of ours in this browser.
    NotOurs,
    /// The page was open for too long.
    Expired,
    /// Something of ours is away for a while.
    Unavailable,
    /// There were too many requests.
    TooMany,
    /// Something of ours has failed.
    Failed,
    /// Nobody is logged in at this browser any more.
    LoggedOut,
}

impl Notice {
    /// The title and the message.
    pub(super) const fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::BadLink => (
                "This link does not work",
                "The app that sent you here has asked in a way that cannot be answered. Please tell those who run it.",
            ),
            Self::NotOurs => (
                "Please try again",
                "This page could not be matched with your browser. Cookies have to be allowed here. Go back to the app \
                 and begin again.",
            ),
            Self::Expired => ("This page has expired", "It was open for too long. Go back to the app and begin again."),
            Self::Unavailable => {
                ("Not available at the moment", "Please try again in a few seconds: reload this page.")
            }
            Self::TooMany => (
                "Too many requests",
                "There were too many from where you are. Please wait for a moment, and reload this page.",
            ),
            Self::Failed => ("Something went wrong", "It is our fault, not yours. Please try again."),
            Self::LoggedOut => ("You are logged out", "Nobody is logged in at this browser any more."),
        }
    }
}
