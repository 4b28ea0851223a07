//! Logging out at a browser: asked for by a page of its own, so that no other site can do it.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};

use super::{
    LOG_OUT,
    authorize::{notice, respond},
    method_not_allowed, visitor,
};
use crate::issuer::{
    By, Issuer,
    browser::Ticket,
    form::{Form, Param},
    ledger::Cause,
    pages::{self, Notice},
};

/// The kind of its tickets.
const TICKET: &str = "logout";

pub(in crate::issuer) async fn answer(issuer: &Issuer, request: &Request<Bytes>) -> Response<Bytes> {
    let is_form = match *request.method() {
        Method::GET => false,
        Method::POST => true,
        _ => return method_not_allowed("GET, POST"),
    };
    respond(issuer, request, async |browser| {
        let login = issuer.login_of(request.headers()).await?;
        let logged_out = || issuer.look.notice(StatusCode::OK, Notice::LoggedOut, None);
        if !is_form {
            if login.is_none() {
                return Ok(logged_out());
            }
            let ticket = issuer.browsers.ticket(browser, TICKET, &());
            let action = format!("{}{LOG_OUT}", issuer.base());
            return Ok(issuer.look.log_out(pages::Form { action: &action, ticket: &ticket }));
        }
        let form = Form::read(request.headers(), request.body());
        let ticket = form.as_ref().ok().and_then(|form| form.get(Param::Ticket)).unwrap_or_default();
        if let Ticket::NotOurs = issuer.browsers.read::<()>(browser, TICKET, ticket) {
            return Ok(notice(issuer, Notice::NotOurs));
        }
        if let Some(login) = login {
            let by = By {
                subject: Some(login.session.subject.clone()),
                visitor: visitor(request),
                ..Cause::LoggedOut.into()
            };
            issuer.ledger.revoke_session(login.session.id, by, "its user has logged out").await?;
        }
        let mut response = logged_out();
        response.headers_mut().append(header::SET_COOKIE, issuer.browsers.logged_out());
        Ok(response)
    })
    .await
}
