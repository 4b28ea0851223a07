//! One request sent on one connection, and what came of it.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::TrySendError};

use super::{
    UpstreamFailure,
    endpoint::Endpoint,
    form,
    lane::{Connection, Lease},
    outgoing::{Outgoing, Sending, Stream},
    patience::{Overdue, Waiting},
};

/// A failed exchange.
pub(super) struct Failed {
    pub(super) why: UpstreamFailure,
    /// Whether it speaks against the endpoint.
    pub(super) blame: bool,
}

/// Sends the request that is there, and leaves it there if it may be sent again.
pub(super) async fn exchange(
    lease: &mut Lease,
    request: &mut Option<Request<Outgoing>>,
    waiting: &Waiting,
    sending: Option<&Sending>,
) -> Result<Response<Incoming>, Failed> {
    let rested = lease.rested;
    let broken = Failed { why: UpstreamFailure::Broken, blame: true };
    let (connection, Endpoint { authority, server_name, .. }) = lease.parts();
    let (Some(connection), Some(mut sent)) = (connection, request.take()) else { return Err(broken) };
    let bodiless = sending.is_none();
    let outcome = match connection {
        Connection::One { sender, .. } => {
            form::for_http1(&mut sent, authority);
            // Half a microsecond, which a connection in constant use can do without: it is not the one that is timed
            // out.
            if rested && bodiless && sent.method().is_safe() {
                *request = Some(form::copy(&sent));
            }
            in_time(pin!(sender.try_send_request(sent)), waiting).await
        }
        Connection::Many(connection) => {
            if form::for_http2(&mut sent, authority, server_name.is_some()).is_err() {
                return Err(Failed { why: UpstreamFailure::RequestHost, blame: false });
            }
            // A connection may be wound up at any time, while requests are under way on it.
            if bodiless {
                *request = Some(form::copy(&sent));
            }
            let answer = connection.sender().borrow_mut().try_send_request(sent.map(Stream));
            in_time(pin!(answer), waiting).await
        }
    };
    match outcome {
        Ok(mut response) => {
            if form::is_sound(&mut response) {
                return Ok(response);
            }
            *request = None;
            Err(broken)
        }
        Err(Trouble::Failed { error, untouched }) => {
            let untouched = untouched.map(|sent| *sent);
            Err(failed(&error, untouched, request, rested, sending))
        }
        // Dropping the exchange closes the connection, or resets the stream.
        Err(Trouble::Overdue(who)) => {
            *request = None;
            Err(match who {
                Overdue::Upstream => Failed { why: UpstreamFailure::ResponseTimeout, blame: true },
                Overdue::Client => Failed { why: UpstreamFailure::RequestBody, blame: false },
            })
        }
    }
}

/// Why there is no answer.
enum Trouble {
    Overdue(Overdue),
    /// With the request, where nothing of it was sent. Boxed, since it would be carried along by every answer.
    Failed {
        error: hyper::Error,
        untouched: Option<Box<Request<Outgoing>>>,
    },
}

/// What `exchange` comes to, unless it is kept waiting for too long.
fn in_time<B: Into<Outgoing>>(
    mut exchange: Pin<&mut impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>>>,
    waiting: &Waiting,
) -> impl Future<Output = Result<Response<Incoming>, Trouble>> {
    poll_fn(move |cx| match exchange.as_mut().poll(cx) {
        Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
        Poll::Ready(Err(mut failed)) => {
            let untouched = failed.take_message().map(|request| Box::new(request.map(Into::into)));
            Poll::Ready(Err(Trouble::Failed { error: failed.into_error(), untouched }))
        }
        Poll::Pending => waiting.poll_overdue(cx).map(|who| Err(Trouble::Overdue(who))),
    })
}

/// What has become of a request that was not answered. It is left in `request` if it may be sent again: what the upstream
/// has got nothing of, or says that it has not looked at; and what it may get twice, where it may have closed the connection
/// in the moment in which we took it (RFC 9110 §9.2.2, RFC 9113 §8.7).
fn failed(
    error: &hyper::Error,
    untouched: Option<Request<Outgoing>>,
    request: &mut Option<Request<Outgoing>>,
    rested: bool,
    sending: Option<&Sending>,
) -> Failed {
    tracing::debug!(?error, "an exchange with an upstream failed");
    if sending.is_some_and(Sending::is_broken) {
        return Failed { why: UpstreamFailure::RequestBody, blame: false };
    }
    let mut unprocessed = is_unprocessed(error);
    if untouched.is_some() {
        (*request, unprocessed) = (untouched, true);
    } else if !unprocessed && request.as_ref().is_some_and(|copy| !copy.method().is_safe()) {
        *request = None;
    }
    Failed { why: UpstreamFailure::Broken, blame: !rested && !unprocessed }
}

/// Whether the other end says that it has done nothing about the request: a stream that it refused, or one that is beyond
/// the last it will look at before it goes away.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.is_remote() && (h2.is_go_away() || h2.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        cause = error.source();
    }
    false
}
