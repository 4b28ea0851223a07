//! The crate `oauth2`.

use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, ConfigurationError, CsrfToken, EndpointNotSet,
    EndpointSet, IntrospectionUrl, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError,
    ResourceOwnerPassword, ResourceOwnerUsername, RevocationUrl, Scope, StandardRevocableToken,
    TokenIntrospectionResponse as _, TokenResponse as _, TokenUrl,
    basic::{BasicClient, BasicErrorResponseType, BasicRequestTokenError, BasicTokenResponse},
    reqwest,
};

use super::{
    Gate, LOOPBACK_REDIRECT, Over, PASSWORD, REDIRECT, SECRET, SUBJECT, USER,
    browser::{Browser, parameter},
};

type Client = BasicClient<EndpointSet, EndpointNotSet, EndpointSet, EndpointSet, EndpointSet>;

#[tokio::test]
async fn the_oauth2_crate_does_every_grant() {
    for over in Over::BOTH {
        let gate = Gate::start("oauth2", over);
        let http = gate.http();
        for auth_type in [AuthType::BasicAuth, AuthType::RequestBody] {
            let client = client(&gate, "stock", REDIRECT)
                .set_client_secret(ClientSecret::new(SECRET.into()))
                .set_auth_type(auth_type);
            walk_through(&gate, over, &client, &http).await;

            let token = client.exchange_client_credentials().request_async(&http).await.unwrap();
            assert!(token.refresh_token().is_none());
            assert_eq!(gate.get(&http, token.access_token().secret()).await, 200);
            let about = client.introspect(token.access_token()).request_async(&http).await.unwrap();
            assert!(about.active());
            assert_eq!(about.client_id().unwrap().as_str(), "stock");

            let stranger = client.set_client_secret(ClientSecret::new("wrong".into()));
            let refused = stranger.exchange_client_credentials().request_async(&http).await;
            assert_refused(refused, &BasicErrorResponseType::InvalidClient);
        }
        let public = client(&gate, "stock-public", LOOPBACK_REDIRECT);
        walk_through(&gate, over, &public, &http).await;
        let refused = public.exchange_client_credentials().request_async(&http).await;
        assert_refused(refused, &BasicErrorResponseType::UnauthorizedClient);
    }
}

fn client(gate: &Gate, id: &str, redirect: &str) -> Client {
    BasicClient::new(ClientId::new(id.into()))
        .set_auth_uri(AuthUrl::new(gate.url("/oauth/authorize")).unwrap())
        .set_token_uri(TokenUrl::new(gate.url("/oauth/token")).unwrap())
        .set_introspection_url(IntrospectionUrl::new(gate.url("/oauth/introspect")).unwrap())
        .set_revocation_url(RevocationUrl::new(gate.url("/oauth/revoke")).unwrap())
        .set_redirect_uri(RedirectUrl::new(redirect.into()).unwrap())
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug, E: std::error::Error>(
    answer: Result<T, BasicRequestTokenError<E>>,
    error: &BasicErrorResponseType,
) {
    match answer {
        Err(RequestTokenError::ServerResponse(answer)) => assert_eq!(answer.error(), error),
        other => panic!("not {error:?}: {other:?}"),
    }
}

/// Sends a browser for a code.
async fn code(client: &Client, browser: &mut Browser) -> (AuthorizationCode, PkceCodeVerifier) {
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let scopes = ["read", "write"].map(|scope| Scope::new(scope.into()));
    let (url, state) =
        client.authorize_url(CsrfToken::new_random).add_scopes(scopes).set_pkce_challenge(challenge).url();
    let back = browser.go(url, "allow").await;
    assert_eq!(parameter(&back, "state").as_ref(), Some(state.secret()));
    (AuthorizationCode::new(parameter(&back, "code").unwrap()), verifier)
}

/// A code, and all that can be done with what it is good for.
async fn walk_through(gate: &Gate, over: Over, client: &Client, http: &reqwest::Client) {
    let mut browser = Browser::new(gate);
    let (code_, verifier) = code(client, &mut browser).await;
    let first = client.exchange_code(code_).set_pkce_verifier(verifier).request_async(http).await.unwrap();
    goes_on(gate, over, client, http, first).await;

    let (user, password) = (ResourceOwnerUsername::new(USER.into()), ResourceOwnerPassword::new(PASSWORD.into()));
    let first = client.exchange_password(&user, &password).request_async(http).await.unwrap();
    goes_on(gate, over, client, http, first).await;

    let (code_, _) = code(client, &mut browser).await;
    let other = PkceCodeVerifier::new("x".repeat(43));
    let refused = client.exchange_code(code_).set_pkce_verifier(other).request_async(http).await;
    assert_refused(refused, &BasicErrorResponseType::InvalidGrant);
    let (code_, verifier) = code(client, &mut browser).await;
    let again = PkceCodeVerifier::new(verifier.secret().clone());
    let once = client.exchange_code(code_.clone()).set_pkce_verifier(verifier).request_async(http).await.unwrap();
    let refused = client.exchange_code(code_).set_pkce_verifier(again).request_async(http).await;
    assert_refused(refused, &BasicErrorResponseType::InvalidGrant);
    assert_eq!(gate.get(http, once.access_token().secret()).await, 401, "what came of a code that is used twice");
}

/// Refresh, a narrower refresh, introspection where that is for this client, revoke, and a refresh that must fail then.
async fn goes_on(gate: &Gate, over: Over, client: &Client, http: &reqwest::Client, first: BasicTokenResponse) {
    assert_eq!(gate.get(http, first.access_token().secret()).await, 200);

    let second = client.exchange_refresh_token(first.refresh_token().unwrap()).request_async(http).await.unwrap();
    assert_ne!(second.access_token().secret(), first.access_token().secret());
    assert_ne!(second.refresh_token().unwrap().secret(), first.refresh_token().unwrap().secret());
    assert_eq!(gate.get(http, second.access_token().secret()).await, 200);

    let narrow = client
        .exchange_refresh_token(second.refresh_token().unwrap())
        .add_scope(Scope::new("read".into()))
        .request_async(http)
        .await
        .unwrap();
    assert_eq!(narrow.scopes(), Some(&vec![Scope::new("read".into())]));

    let about = client.introspect(second.access_token()).request_async(http).await;
    if client.client_id().as_str() == "stock" {
        assert_eq!(about.unwrap().sub(), Some(SUBJECT));
    } else {
        assert_refused(about, &BasicErrorResponseType::InvalidClient);
    }

    let last = narrow.refresh_token().unwrap();
    let doomed = client.revoke_token(StandardRevocableToken::from(last));
    if let Over::Loopback = over {
        // It wants TLS for that, wherever the server is.
        assert!(matches!(doomed, Err(ConfigurationError::InsecureUrl("revocation"))));
        return;
    }
    doomed.unwrap().request_async(http).await.unwrap();
    let refused = client.exchange_refresh_token(last).request_async(http).await;
    assert_refused(refused, &BasicErrorResponseType::InvalidGrant);
    assert_eq!(gate.get(http, second.access_token().secret()).await, 401, "its session's tokens are dead");
}
