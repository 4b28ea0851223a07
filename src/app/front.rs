//! What a worker serves: the issuer's paths where the listener answers them, the gateway for everything else.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use tokio::{runtime::Handle, time::timeout};

use crate::{
    gateway::{self, Gateway},
    http::{Body, ClientCertificate, HeadFault, Peer, RequestBody},
    issuer::{self, Endpoint, Issuer, MAX_FORM_BYTES},
    server::Handler,
    store::Visitor,
    telemetry::{Decision, Metrics, Outcome, Recorder},
};

/// Makes each worker's front.
#[derive(Clone)]
pub(super) struct FrontMaker {
    pub(super) gateway: Arc<Gateway>,
    pub(super) issuer: Option<Arc<Issuer>>,
    pub(super) metrics: Metrics,
    pub(super) control: Handle,
    /// How long a form may take on its way. One that stands still is ended by the server before that; this is for one that trickles.
    pub(super) form_timeout: Duration,
}

impl FrontMaker {
    pub(super) fn make(&self) -> Rc<Front> {
        Rc::new(Front {
            gateway: self.gateway.worker(),
            issuer: self.issuer.clone(),
            recorder: Recorder::new(self.metrics.clone(), &["issuer".into()], &[], &[]),
            control: self.control.clone(),
            form_timeout: self.form_timeout,
        })
    }
}

/// What a worker serves: the issuer's paths where the listener answers them, the gateway for everything else.
pub(super) struct Front {
    gateway: Rc<gateway::Worker>,
    issuer: Option<Arc<Issuer>>,
    recorder: Recorder,
    control: Handle,
    form_timeout: Duration,
}

impl Handler for Front {
    async fn handle(&self, request: Request<RequestBody>, peer: &Peer) -> Response<Body> {
        // What has more than one reading is the gateway's to refuse.
        let readable = request.extensions().get::<HeadFault>().is_none();
        let issuer = self.issuer.as_ref().filter(|_| peer.issuer && readable);
        match issuer.and_then(|issuer| Some((issuer, issuer.endpoint(request.uri().path())?))) {
            Some((issuer, endpoint)) => {
                let address = self.gateway.client_address(request.headers(), peer);
                let visitor = Visitor::new(address, request.headers());
                self.ask(issuer, endpoint, request, (visitor, peer.certificate.clone())).await
            }
            None => self.gateway.handle(request, peer).await,
        }
    }
}

impl Front {
    /// Reads the form on this worker, and lets the issuer answer: here where that is quick, since to hand a request over and
    /// its answer back costs about as much as a signature; otherwise on its own runtime, where it may take its time.
    async fn ask(
        &self,
        issuer: &Arc<Issuer>,
        endpoint: Endpoint,
        request: Request<RequestBody>,
        (visitor, certificate): (Visitor, Option<Arc<ClientCertificate>>),
    ) -> Response<Body> {
        let started = std::time::Instant::now();
        let _in_flight = self.recorder.request_started();
        let method = request.method().clone();
        let (mut head, body) = request.into_parts();
        head.extensions.insert(visitor);
        if let Some(certificate) = certificate {
            head.extensions.insert(certificate);
        }
        let form = timeout(self.form_timeout, Limited::new(body, MAX_FORM_BYTES).collect()).await;
        let response = match form {
            Err(_) => issuer::refusal(
                StatusCode::REQUEST_TIMEOUT,
                "invalid_request",
                "The form has taken too long to arrive.",
            ),
            Ok(Ok(form)) => {
                let (issuer, request) = (issuer.clone(), Request::from_parts(head, form.to_bytes()));
                if endpoint == Endpoint::Feed {
                    return self.feed(&issuer, &request, started);
                }
                let quick = issuer.is_quick(endpoint);
                let answer = async move { issuer.handle(endpoint, request).await };
                // A task of its own either way: a client that hangs up does not keep what was done from being told.
                let answering = if quick { tokio::spawn(answer) } else { self.control.spawn(answer) };
                match answering.await {
                    Ok(response) => response,
                    Err(error) => {
                        tracing::error!(%error, "the issuer failed");
                        issuer::refusal(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "The issuer failed.")
                    }
                }
            }
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                issuer::refusal(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", "The form is larger than 64 KiB.")
            }
            Ok(Err(_)) => issuer::refusal(StatusCode::BAD_REQUEST, "invalid_request", "The body broke off."),
        };
        let response = response.map(Body::from);
        let status = response.status();
        let outcome = Outcome { route: Some(0), decision: Decision::Answered, reason: "issuer", status };
        self.recorder.request_ended(&method, outcome, started.elapsed());
        response
    }

    /// Has a process follow the revocation log. The log is read on the issuer's runtime.
    fn feed(
        &self,
        issuer: &Arc<Issuer>,
        request: &Request<bytes::Bytes>,
        started: std::time::Instant,
    ) -> Response<Body> {
        let _issuers = self.control.enter();
        let response = match issuer.follow(request) {
            Ok(pieces) => {
                let mut response = Response::new(Body::from(pieces));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
                // Nobody on the way shall keep, change or gather what must arrive at once.
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
                headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
                response
            }
            Err(refusal) => refusal.map(Body::from),
        };
        let outcome =
            Outcome { route: Some(0), decision: Decision::Answered, reason: "feed", status: response.status() };
        self.recorder.request_ended(request.method(), outcome, started.elapsed());
        response
    }
}
