//! The crate `openidconnect`.

use openidconnect::{
    AccessTokenHash, AuthType, AuthenticationFlow, AuthorizationCode, ClaimsVerificationError, ClientId, ClientSecret,
    ConfigurationError, CsrfToken, EndpointMaybeSet, EndpointNotSet, EndpointSet, IntrospectionUrl, IssuerUrl, Nonce,
    OAuth2TokenResponse as _, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError, RevocationUrl,
    Scope, SubjectIdentifier, TokenIntrospectionResponse as _, TokenResponse as _,
    core::{
        CoreAuthPrompt, CoreClient, CoreErrorResponseType, CoreProviderMetadata, CoreResponseType, CoreRevocableToken,
        CoreTokenResponse, CoreUserInfoClaims,
    },
    reqwest,
};

use super::{
    Gate, LOOPBACK_REDIRECT, Over, REDIRECT, SECRET, SUBJECT, USER,
    browser::{Browser, parameter},
};

type Client = CoreClient<EndpointSet, EndpointNotSet, EndpointSet, EndpointSet, EndpointMaybeSet, EndpointMaybeSet>;

#[tokio::test]
async fn the_openidconnect_crate_logs_users_in() {
    for over in Over::BOTH {
        let gate = Gate::start("openidconnect", over);
        let http = gate.http();
        let issuer = IssuerUrl::new(gate.base.clone()).unwrap();
        let metadata = CoreProviderMetadata::discover_async(issuer, &http).await.unwrap();
        for (id, secret, auth_type, redirect) in [
            ("stock", Some(SECRET), AuthType::BasicAuth, REDIRECT),
            ("stock", Some(SECRET), AuthType::RequestBody, REDIRECT),
            ("stock-public", None, AuthType::RequestBody, LOOPBACK_REDIRECT),
        ] {
            let secret = secret.map(|secret| ClientSecret::new(secret.into()));
            let client = CoreClient::from_provider_metadata(metadata.clone(), ClientId::new(id.into()), secret)
                .set_auth_type(auth_type)
                .set_redirect_uri(RedirectUrl::new(redirect.into()).unwrap())
                .set_introspection_url(IntrospectionUrl::new(gate.url("/oauth/introspect")).unwrap())
                .set_revocation_url(RevocationUrl::new(gate.url("/oauth/revoke")).unwrap());
            walk_through(&gate, over, &client, &http).await;
        }
    }
}

/// What a client keeps from when it sends a browser until that comes back.
struct Asked {
    nonce: Nonce,
    verifier: PkceCodeVerifier,
    back: reqwest::Url,
}

impl Asked {
    /// Sends a browser for a code; `quietly` without a page.
    async fn of(client: &Client, browser: &mut Browser, quietly: bool) -> Self {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let flow = AuthenticationFlow::<CoreResponseType>::AuthorizationCode;
        let mut request = client
            .authorize_url(flow, CsrfToken::new_random, Nonce::new_random)
            .add_scopes(["profile", "read"].map(|scope| Scope::new(scope.into())))
            .set_pkce_challenge(challenge);
        if quietly {
            request = request.add_prompt(CoreAuthPrompt::None);
        }
        let (url, state, nonce) = request.url();
        let back = browser.go(url, "allow").await;
        assert_eq!(parameter(&back, "state").as_ref(), Some(state.secret()));
        Self { nonce, verifier, back }
    }

    fn code(&self) -> AuthorizationCode {
        AuthorizationCode::new(parameter(&self.back, "code").unwrap())
    }
}

async fn walk_through(gate: &Gate, over: Over, client: &Client, http: &reqwest::Client) {
    let mut browser = Browser::new(gate);
    let nobody = Asked::of(client, &mut browser, true).await;
    assert_eq!(parameter(&nobody.back, "error").as_deref(), Some("login_required"));

    let asked = Asked::of(client, &mut browser, false).await;
    let (code, nonce) = (asked.code(), asked.nonce);
    let tokens =
        client.exchange_code(code).unwrap().set_pkce_verifier(asked.verifier).request_async(http).await.unwrap();
    says_who(client, &tokens, &nonce);
    let subject = SubjectIdentifier::new(SUBJECT.into());
    let info = client.user_info(tokens.access_token().clone(), Some(subject.clone())).unwrap();
    let info: CoreUserInfoClaims = info.request_async(http).await.unwrap();
    assert_eq!((info.subject(), info.preferred_username().unwrap().as_str()), (&subject, USER));
    assert_eq!(gate.get(http, tokens.access_token().secret()).await, 200);

    let fresh = client.exchange_refresh_token(tokens.refresh_token().unwrap()).unwrap();
    let fresh = fresh.request_async(http).await.unwrap();
    assert_ne!(fresh.refresh_token().unwrap().secret(), tokens.refresh_token().unwrap().secret());
    assert_eq!(gate.get(http, fresh.access_token().secret()).await, 200);
    if client.client_id().as_str() == "stock" {
        let about = client.introspect(fresh.access_token()).request_async(http).await.unwrap();
        assert!(about.active());
        assert_eq!((about.sub(), about.username()), (Some(SUBJECT), Some(USER)));
    }

    let asked = Asked::of(client, &mut browser, false).await;
    let other = PkceCodeVerifier::new("x".repeat(43));
    let refused = client.exchange_code(asked.code()).unwrap().set_pkce_verifier(other).request_async(http).await;
    match refused {
        Err(RequestTokenError::ServerResponse(answer)) => {
            assert_eq!(answer.error(), &CoreErrorResponseType::InvalidGrant);
        }
        other => panic!("another verifier: {other:?}"),
    }

    let doomed = client.revoke_token(CoreRevocableToken::from(fresh.refresh_token().unwrap().clone()));
    if let Over::Loopback = over {
        // It wants TLS for that, wherever the server is.
        assert!(matches!(doomed, Err(ConfigurationError::InsecureUrl("revocation"))));
        return;
    }
    doomed.unwrap().request_async(http).await.unwrap();
    let gone = client.exchange_refresh_token(fresh.refresh_token().unwrap()).unwrap().request_async(http).await;
    assert!(matches!(gone, Err(RequestTokenError::ServerResponse(_))));
    let late = client.user_info(fresh.access_token().clone(), None).unwrap();
    let late: Result<CoreUserInfoClaims, _> = late.request_async(http).await;
    assert!(late.is_err(), "userinfo of a session that has ended");
    assert_eq!(gate.get(http, fresh.access_token().secret()).await, 401);
}

/// What the crate's documentation has clients look at in an ID token.
fn says_who(client: &Client, tokens: &CoreTokenResponse, nonce: &Nonce) {
    let id_token = tokens.id_token().expect("an ID token");
    let verifier = client.id_token_verifier();
    let claims = id_token.claims(&verifier, nonce).unwrap();
    assert_eq!((claims.subject().as_str(), claims.preferred_username().unwrap().as_str()), (SUBJECT, USER));
    assert!(claims.auth_time().is_some());
    let (alg, key) = (id_token.signing_alg().unwrap(), id_token.signing_key(&verifier).unwrap());
    let hash = AccessTokenHash::from_token(tokens.access_token(), alg, key).unwrap();
    assert_eq!(claims.access_token_hash(), Some(&hash));
    let other = id_token.claims(&verifier, &Nonce::new_random());
    assert!(matches!(other, Err(ClaimsVerificationError::InvalidNonce(_))));
}
