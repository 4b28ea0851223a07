//! What a worker serves: the issuer's paths where the listener answers them, the gateway for everything else.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::spawn_local,
    time::timeout,
};

use crate::{
    gateway::{self, Gateway},
    http::{Body, ClientCertificate, HeadFault, Peer, RequestBody},
    issuer::{self, Endpoint, Issuer, MAX_FORM_BYTES},
    server::Handler,
    store::Visitor,
    telemetry::{Decision, Metrics, Outcome, Recorder},
};

/// What one configuration makes, for all workers.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) gateway: Arc<Gateway>,
    pub(super) issuer: Option<Arc<Issuer>>,
    /// How long a form may take on its way. One that stands still is ended by the server before that; this is for one that trickles.
    pub(super) form_timeout: Duration,
}

/// All workers' fronts: makes them, and has them serve by another configuration.
#[derive(Clone)]
pub(super) struct Fronts {
    state: Arc<Mutex<State>>,
    metrics: Metrics,
    control: Handle,
}

struct State {
    shared: Shared,
    workers: Vec<mpsc::UnboundedSender<Order>>,
}

/// Serve by this from now on, and say when.
type Order = (Shared, oneshot::Sender<()>);

impl Fronts {
    pub(super) fn new(shared: Shared, metrics: Metrics, control: Handle) -> Self {
        Self { state: Arc::new(Mutex::new(State { shared, workers: Vec::new() })), metrics, control }
    }

    /// One worker's. Must be called on its thread, within its runtime.
    pub(super) fn make(&self) -> Rc<Front> {
        let (sender, mut orders) = mpsc::unbounded_channel::<Order>();
        let shared = {
            // In one step: whoever comes with another configuration finds this worker, or is found by it.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.workers.push(sender);
            state.shared.clone()
        };
        let front = Rc::new(Front {
            serving: RefCell::new(Serving::new(&shared)),
            recorder: Recorder::new(self.metrics.clone(), &["issuer".into()], &[], &[]),
            control: self.control.clone(),
        });
        let told = Rc::downgrade(&front);
        spawn_local(async move {
            while let Some((shared, done)) = orders.recv().await {
                let Some(front) = told.upgrade() else { return };
                front.serving.replace(Serving::new(&shared)).gateway.retire();
                // Whoever has ordered it may have gone.
                let _ = done.send(());
            }
        });
        front
    }

    /// Has every worker serve by this, from its next request on. Answers when all do.
    pub(super) async fn replace(&self, shared: Shared) {
        let done: Vec<_> = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.shared = shared.clone();
            let order = |worker: &mpsc::UnboundedSender<Order>| {
                let (done, told) = oneshot::channel();
                worker.send((shared.clone(), done)).ok().map(|()| told)
            };
            state.workers.iter().filter_map(order).collect()
        };
        for done in done {
            // A worker that has gone serves nobody.
            let _ = done.await;
        }
    }
}

/// What a worker serves: the issuer's paths where the listener answers them, the gateway for everything else.
pub(super) struct Front {
    serving: RefCell<Rc<Serving>>,
    recorder: Recorder,
    control: Handle,
}

/// What it serves by. A request that has begun stays with what it began with.
struct Serving {
    gateway: Rc<gateway::Worker>,
    issuer: Option<Arc<Issuer>>,
    form_timeout: Duration,
}

impl Serving {
    fn new(shared: &Shared) -> Rc<Self> {
        let Shared { gateway, issuer, form_timeout } = shared;
        Rc::new(Self { gateway: gateway.worker(), issuer: issuer.clone(), form_timeout: *form_timeout })
    }
}

impl Handler for Front {
    async fn handle(&self, request: Request<RequestBody>, peer: &Peer) -> Response<Body> {
        let serving = self.serving.borrow().clone();
        let Serving { gateway, issuer, form_timeout } = &*serving;
        // What has more than one reading is the gateway's to refuse.
        let readable = request.extensions().get::<HeadFault>().is_none();
        let issuer = issuer.as_ref().filter(|_| peer.issuer && readable);
        match issuer.and_then(|issuer| Some((issuer, issuer.endpoint(request.uri().path())?))) {
            Some((issuer, endpoint)) => {
                let address = gateway.client_address(request.headers(), peer);
                let visitor = Visitor::new(address, request.headers());
                self.ask(issuer, endpoint, request, (visitor, peer.certificate.clone()), *form_timeout).await
            }
            None => gateway.handle(request, peer).await,
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
        form_timeout: Duration,
    ) -> Response<Body> {
        let started = std::time::Instant::now();
        let _in_flight = self.recorder.request_started();
        let method = request.method().clone();
        let (mut head, body) = request.into_parts();
        head.extensions.insert(visitor);
        if let Some(certificate) = certificate {
            head.extensions.insert(certificate);
        }
        let form = timeout(form_timeout, Limited::new(body, MAX_FORM_BYTES).collect()).await;
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
