//! Who does something, for the audit log.

use super::ledger::Cause;
use crate::{
    telemetry::audit::Facts,
    types::{ClientId, Subject, Visitor},
};

/// What led to a revocation or to a change of keys, and who asked for it, as far as that is known.
#[derive(Clone, Debug)]
pub struct By {
    pub(super) cause: Cause,
    /// The client that asked.
    pub(super) client: Option<ClientId>,
    /// Whose session it is.
    pub(super) subject: Option<Subject>,
    /// From where it was asked for.
    pub(super) visitor: Visitor,
    /// As which user of the machine.
    pub(super) uid: Option<u32>,
}

impl By {
    /// An operator at the admin API.
    pub fn admin_api(visitor: Visitor) -> Self {
        Self { visitor, ..Cause::AdminApi.into() }
    }

    /// A command that was run by that user of the machine.
    pub fn command(uid: u32) -> Self {
        Self { uid: Some(uid), ..Cause::Command.into() }
    }

    /// A client at the revocation endpoint.
    pub(super) fn client(client: &ClientId, visitor: Visitor) -> Self {
        Self { client: Some(client.clone()), visitor, ..Cause::RevokeEndpoint.into() }
    }

    /// The same for another reason.
    pub(super) fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// What is written of it.
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            cause: Some(self.cause.name()),
            client: self.client.as_ref(),
            subject: self.subject.as_ref().map(Subject::as_str),
            uid: self.uid,
            ..Facts::from(&self.visitor)
        }
    }
}

impl From<Cause> for By {
    fn from(cause: Cause) -> Self {
        Self { cause, client: None, subject: None, visitor: Visitor::default(), uid: None }
    }
}
