//! The parameters of a request, each once, bounded, and free of control characters.

use http::{HeaderMap, header};

use super::error::Error;
use crate::{token::assertion, types::MAX_CLIENT_ID_BYTES};

/// The largest body that the issuer's endpoints look at, in bytes.
pub const MAX_FORM_BYTES: usize = 64 * 1024;

/// The parameters we know. Others are ignored (RFC 6749 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Param {
    GrantType,
    ClientId,
    ClientSecret,
    ClientAssertion,
    ClientAssertionType,
    Username,
    Password,
    RefreshToken,
    Scope,
    Resource,
    SubjectToken,
    SubjectTokenType,
    RequestedTokenType,
    ActorToken,
    Audience,
    Token,
    TokenTypeHint,
    ResponseType,
    ResponseMode,
    RedirectUri,
    State,
    CodeChallenge,
    CodeChallengeMethod,
    Code,
    CodeVerifier,
    Prompt,
    MaxAge,
    LoginHint,
    Nonce,
    DpopJkt,
    Request,
    RequestUri,
    IdTokenHint,
    PostLogoutRedirectUri,
    /// What shows that a form came from a page of ours, and what that was about.
    Ticket,
    /// What a user has decided.
    Decision,
}

impl Param {
    const ALL: [Self; 36] = [
        Self::GrantType,
        Self::ClientId,
        Self::ClientSecret,
        Self::ClientAssertion,
        Self::ClientAssertionType,
        Self::Username,
        Self::Password,
        Self::RefreshToken,
        Self::Scope,
        Self::Resource,
        Self::SubjectToken,
        Self::SubjectTokenType,
        Self::RequestedTokenType,
        Self::ActorToken,
        Self::Audience,
        Self::Token,
        Self::TokenTypeHint,
        Self::ResponseType,
        Self::ResponseMode,
        Self::RedirectUri,
        Self::State,
        Self::CodeChallenge,
        Self::CodeChallengeMethod,
        Self::Code,
        Self::CodeVerifier,
        Self::Prompt,
        Self::MaxAge,
        Self::LoginHint,
        Self::Nonce,
        Self::DpopJkt,
        Self::Request,
        Self::RequestUri,
        Self::IdTokenHint,
        Self::PostLogoutRedirectUri,
        Self::Ticket,
        Self::Decision,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::GrantType => "grant_type",
            Self::ClientId => "client_id",
            Self::ClientSecret => "client_secret",
            Self::ClientAssertion => "client_assertion",
            Self::ClientAssertionType => "client_assertion_type",
            Self::Username => "username",
            Self::Password => "password",
            Self::RefreshToken => "refresh_token",
            Self::Scope => "scope",
            Self::Resource => "resource",
            Self::SubjectToken => "subject_token",
            Self::SubjectTokenType => "subject_token_type",
            Self::RequestedTokenType => "requested_token_type",
            Self::ActorToken => "actor_token",
            Self::Audience => "audience",
            Self::Token => "token",
            Self::TokenTypeHint => "token_type_hint",
            Self::ResponseType => "response_type",
            Self::ResponseMode => "response_mode",
            Self::RedirectUri => "redirect_uri",
            Self::State => "state",
            Self::CodeChallenge => "code_challenge",
            Self::CodeChallengeMethod => "code_challenge_method",
            Self::Code => "code",
            Self::CodeVerifier => "code_verifier",
            Self::Prompt => "prompt",
            Self::MaxAge => "max_age",
            Self::LoginHint => "login_hint",
            Self::Nonce => "nonce",
            Self::DpopJkt => "dpop_jkt",
            Self::Request => "request",
            Self::RequestUri => "request_uri",
            Self::IdTokenHint => "id_token_hint",
            Self::PostLogoutRedirectUri => "post_logout_redirect_uri",
            Self::Ticket => "ticket",
            Self::Decision => "decision",
        }
    }

    /// How often it may stand.
    const fn most(self) -> usize {
        match self {
            // RFC 8707 §2, RFC 8693 §2.1.
            Self::Resource | Self::Audience => 8,
            _ => 1,
        }
    }

    /// The longest value that is looked at, in bytes.
    const fn max_bytes(self) -> usize {
        match self {
            Self::Decision | Self::MaxAge => 20,
            Self::GrantType
            | Self::ClientAssertionType
            | Self::TokenTypeHint
            | Self::SubjectTokenType
            | Self::RequestedTokenType
            | Self::ResponseType
            | Self::ResponseMode
            | Self::CodeChallenge
            | Self::DpopJkt
            | Self::CodeChallengeMethod => 128,
            Self::ClientId => MAX_CLIENT_ID_BYTES,
            Self::Username | Self::Code | Self::CodeVerifier | Self::Prompt | Self::LoginHint => 256,
            Self::ClientSecret
            | Self::Password
            | Self::RefreshToken
            | Self::RedirectUri
            | Self::PostLogoutRedirectUri
            | Self::Nonce
            | Self::Resource
            | Self::Audience => 1024,
            Self::Scope | Self::State | Self::RequestUri => 4096,
            Self::ClientAssertion => assertion::MAX_BYTES,
            Self::Token | Self::SubjectToken | Self::ActorToken | Self::Request | Self::IdTokenHint | Self::Ticket => {
                super::MAX_TOKEN_BYTES
            }
        }
    }
}

/// What a request asks for. No `Debug`: it holds secrets.
pub(super) struct Form(Vec<(Param, Box<str>)>);

impl Form {
    /// Reads a body of `application/x-www-form-urlencoded`.
    ///
    /// # Errors
    /// `invalid_request` when it is of another type, too long, or says one thing twice.
    pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Error> {
        if !is_form(headers) {
            return Err(Error::InvalidRequest("The body must be application/x-www-form-urlencoded.".into()));
        }
        if body.len() > MAX_FORM_BYTES {
            return Err(Error::InvalidRequest("The body is too long.".into()));
        }
        Self::parse(body)
    }

    /// Reads a query, which has the same form.
    ///
    /// # Errors
    /// `invalid_request` when it says one thing twice, or too much.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut form = Self(Vec::with_capacity(8));
        for (name, value) in form_urlencoded::parse(text) {
            let Some(param) = Param::ALL.into_iter().find(|param| param.name() == name) else { continue };
            if form.all(param).count() >= param.most() {
                return Err(param.fault("is repeated"));
            }
            check(param, &value)?;
            form.0.push((param, value.into()));
        }
        Ok(form)
    }

    /// A parameter. One without a value counts as left out (RFC 6749 §3.2).
    pub(super) fn get(&self, param: Param) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == param).map(|(_, value)| &**value).filter(|value| !value.is_empty())
    }

    /// All values of a parameter that may stand several times.
    pub(super) fn all(&self, param: Param) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| *known == param).map(|(_, value)| &**value)
    }

    /// A parameter that must be there.
    ///
    /// # Errors
    /// `invalid_request` when it is not.
    pub(super) fn require(&self, param: Param) -> Result<&str, Error> {
        self.get(param).ok_or_else(|| param.fault("is missing"))
    }
}

impl Param {
    fn fault(self, what: &str) -> Error {
        Error::InvalidRequest(format!("The parameter {} {what}.", self.name()).into())
    }
}

fn check(param: Param, value: &str) -> Result<(), Error> {
    if value.len() > param.max_bytes() {
        return Err(param.fault("is too long"));
    }
    if value.chars().any(|c| c.is_ascii_control()) {
        return Err(param.fault("holds a control character"));
    }
    // What the decoder writes where the bytes are no UTF-8. Two different passwords must not become one.
    if value.contains(char::REPLACEMENT_CHARACTER) {
        return Err(param.fault("is not UTF-8"));
    }
    Ok(())
}

/// One content type, whatever its parameters: some clients add a charset.
fn is_form(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(first), None) = (types.next(), types.next()) else { return false };
    let media_type = first.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}
