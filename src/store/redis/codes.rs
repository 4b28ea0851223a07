//! The verbs about authorization codes and replay markers.

use std::time::Duration;

use super::{Redis, log::uid, names::Place, scripts::Script};
use crate::{
    clock::Timestamp,
    store::{Digest, Taken, Unavailable},
    types::SessionId,
};

impl Redis {
    pub(in crate::store) async fn keep_code(
        &self,
        name: Digest,
        value: Box<[u8]>,
        lifetime: Duration,
    ) -> Result<(), Unavailable> {
        self.0.in_place()?;
        let until = self.0.now() + lifetime;
        let place = Place::of_digest(&name);
        let mut keep = Script::Keep.on(&[&self.0.names.code(&name), &self.0.names.single(place, "codes")]);
        keep.arg(until.0).arg([b"c", &name[..]].concat()).arg(&*value);
        self.0.link.write(place, keep).await
    }

    pub(in crate::store) async fn take_code(
        &self,
        name: Digest,
        session: SessionId,
        remembered: Duration,
    ) -> Result<Taken, Unavailable> {
        self.0.in_place()?;
        let (place, now) = (Place::of_digest(&name), self.0.now());
        let mut take = Script::Take.on(&[&self.0.names.code(&name), &self.0.names.single(place, "codes")]);
        take.arg(now.0).arg(&session.0).arg((now + remembered).0).arg([b"c", &name[..]].concat());
        let answer: Option<(Vec<u8>, Vec<u8>)> = self.0.link.write(place, take).await?;
        let Some((taken, value)) = answer else {
            return self.0.has_its_data(place).await.map(|()| Taken::Unknown);
        };
        let by = SessionId(taken.try_into().map_err(|_| Unavailable("an authorization code is damaged".into()))?);
        Ok(if by == session { Taken::Now(value.into()) } else { Taken::Before(by) })
    }

    pub(in crate::store) async fn mark(&self, name: Digest, until: Timestamp) -> Result<bool, Unavailable> {
        self.0.in_place()?;
        let place = Place::of_digest(&name);
        let mut mark = Script::Mark.on(&[&self.0.names.mark(&name), &self.0.names.single(place, "codes")]);
        mark.arg(self.0.now().0).arg(until.0).arg([b"m", &name[..]].concat()).arg(&*uid());
        self.0.link.write(place, mark).await
    }
}
