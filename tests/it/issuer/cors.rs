//! What pages of other sites may call.

use super::*;

async fn send(rig: &Rig, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header(header::ORIGIN, "https://spa.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    rig.send(request.body(Bytes::new()).unwrap()).await
}

#[tokio::test]
async fn a_client_in_a_browser_may_call_what_it_needs_from_any_page() {
    let rig = Rig::new().await;
    for (path, methods) in [
        ("/oauth/token", "POST"),
        ("/oauth/revoke", "POST"),
        ("/.well-known/jwks.json", "GET, HEAD"),
        ("/.well-known/oauth-authorization-server", "GET, HEAD"),
    ] {
        let asks = [("access-control-request-method", "POST"), ("access-control-request-headers", "dpop")];
        let answer = send(&rig, "OPTIONS", path, &asks).await;
        assert_eq!(answer.status(), 204, "{path}");
        assert_eq!(answer.header(header::ACCESS_CONTROL_ALLOW_ORIGIN), Some("*"), "{path}");
        assert_eq!(answer.header(header::ACCESS_CONTROL_ALLOW_METHODS), Some(methods));
        assert!(answer.header(header::ACCESS_CONTROL_ALLOW_HEADERS).unwrap().contains("dpop"));
        assert_eq!(answer.header(header::ACCESS_CONTROL_ALLOW_CREDENTIALS), None);
        // An error can be read too.
        let answer = send(&rig, "DELETE", path, &[]).await;
        assert_eq!((answer.status().as_u16(), answer.header(header::ACCESS_CONTROL_ALLOW_ORIGIN)), (405, Some("*")));
        assert!(answer.header(header::ACCESS_CONTROL_EXPOSE_HEADERS).unwrap().contains("dpop-nonce"));
    }
    let answer = send(&rig, "OPTIONS", "/oauth/introspect", &[("access-control-request-method", "POST")]).await;
    assert_eq!((answer.status().as_u16(), answer.header(header::ACCESS_CONTROL_ALLOW_ORIGIN)), (405, None));
    // Without asking for a method it is no preflight.
    assert_eq!(send(&rig, "OPTIONS", "/oauth/token", &[]).await.status(), 405);
}
