//! One request sent on one connection, and what came of it.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll},
};

use http::{Request, Response};

use super::{
    UpstreamFailure,
    answering::Incoming,
    endpoint::Endpoint,
    form,
    lane::{Connection, Lease},
    outgoing::{Outgoing, Sending},
    patience::{Overdue, Waiting},
};
use crate::http::BodyError;

/// A failed exchange.
pub(super) struct Failed {
    pub(super) why: UpstreamFailure,
    /// Whether it speaks against the endpoint.
    pub(super) blame: bool,
}

/// Sends the request that is there, and leaves it there if it may be sent again.
pub(super) async fn exchange(
    lease: &Lease,
    request: &mut Option<Request<Outgoing>>,
    waiting: &Waiting,
    sending: Option<&Sending>,
) -> Result<Response<Incoming>, Failed> {
    let broken = Failed { why: UpstreamFailure::Broken, blame: true };
    let (connection, Endpoint { authority, server_name, .. }) = lease.parts();
    let (Some(connection), Some(mut sent)) = (connection, request.take()) else { return Err(broken) };
    let bodiless = sending.is_none();
    // What is left of the request when it is not answered, where that can be sent.
    let (outcome, left) = match connection {
        Connection::One(connection) => {
            connection.begin(&mut sent, authority);
            let answered = in_time(|cx| connection.poll_answer(cx), waiting).await;
            let answered = answered.map(|answered| match answered {
                Ok(head) => Ok(head.map(|()| Incoming::Http1(connection.clone()))),
                Err(failed) => Err(Trouble { unprocessed: !failed.sent, error: failed.error }),
            });
            (answered, bodiless.then_some(sent))
        }
        Connection::Many(connection) => {
            if form::for_http2(&mut sent, authority, server_name.is_some()).is_err() {
                return Err(Failed { why: UpstreamFailure::RequestHost, blame: false });
            }
            // A connection may be wound up at any time, while requests are under way on it.
            let mut left = bodiless.then(|| form::copy(&sent));
            let mut answer = pin!(connection.sender().borrow_mut().try_send_request(sent));
            let answered = in_time(|cx| answer.as_mut().poll(cx), waiting).await;
            let answered = answered.map(|answered| match answered {
                Ok(response) => Ok(response.map(Incoming::Http2)),
                Err(mut failed) => {
                    let untouched = failed.take_message();
                    let error = failed.into_error();
                    let unprocessed = untouched.is_some() || is_unprocessed(&error);
                    left = untouched.or(left.take());
                    Err(Trouble { unprocessed, error: error.into() })
                }
            });
            (answered, left)
        }
    };
    match outcome {
        Ok(Ok(mut response)) => {
            let is_sound = matches!(response.body(), Incoming::Http1(_)) || form::is_sound(&mut response);
            if is_sound { Ok(response) } else { Err(broken) }
        }
        Ok(Err(Trouble { error, .. })) if sending.is_some_and(Sending::is_broken) => {
            tracing::debug!(%error, "a request's body broke off");
            Err(Failed { why: UpstreamFailure::RequestBody, blame: false })
        }
        Ok(Err(Trouble { error, unprocessed })) => {
            tracing::debug!(%error, "an exchange with an upstream failed");
            // What the upstream has got nothing of, or says that it has not looked at; and what it may get twice, where it
            // may have closed the connection in the moment in which we took it (RFC 9110 §9.2.2, RFC 9113 §8.7).
            let may_have_crossed = lease.rested || matches!(connection, Connection::Many(_));
            let again = |sent: &Request<_>| unprocessed || may_have_crossed && sent.method().is_safe();
            *request = left.filter(again);
            Err(Failed { why: UpstreamFailure::Broken, blame: !lease.rested && !unprocessed })
        }
        // Dropping the exchange closes the connection, or resets the stream.
        Err(Overdue::Upstream) => Err(Failed { why: UpstreamFailure::ResponseTimeout, blame: true }),
        Err(Overdue::Client) => Err(Failed { why: UpstreamFailure::RequestBody, blame: false }),
    }
}

/// Why there is no answer.
struct Trouble {
    error: BodyError,
    /// Whether the other end has got nothing of the request, or says that it has not looked at it.
    unprocessed: bool,
}

/// What `exchange` comes to, unless it is kept waiting for too long.
fn in_time<T>(
    mut exchange: impl FnMut(&mut Context<'_>) -> Poll<T>,
    waiting: &Waiting,
) -> impl Future<Output = Result<T, Overdue>> {
    poll_fn(move |cx| match exchange(cx) {
        Poll::Ready(outcome) => Poll::Ready(Ok(outcome)),
        Poll::Pending => waiting.poll_overdue(cx).map(Err),
    })
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
