//! Which of an upstream's endpoints is asked next, as one worker sees them.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use tokio::{sync::watch, time::timeout};

use super::{
    Endpoints, Upstream,
    endpoint::State,
    lane::{Active, Lane},
};

/// One worker's lanes to the endpoints there are.
pub(super) struct Lanes {
    upstream: Arc<Upstream>,
    endpoints: RefCell<watch::Receiver<Endpoints>>,
    list: RefCell<Vec<Rc<Lane>>>,
    /// Where the search for the one with the fewest requests begins, so that equals take turns.
    turn: Cell<usize>,
}

impl Lanes {
    pub(super) fn new(upstream: &Arc<Upstream>) -> Self {
        let endpoints = RefCell::new(upstream.endpoints.subscribe());
        let lanes = Self { upstream: upstream.clone(), endpoints, list: RefCell::default(), turn: Cell::new(0) };
        lanes.take_over();
        lanes
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        self.list.borrow().iter().for_each(|lane| lane.sweep(now));
    }

    /// The lane with the fewest requests among those that are well. When none is, all of them are tried all the same: that
    /// every one is ill is less likely than that something is wrong with the way we tell.
    pub(super) fn choose(&self, tried: &[Rc<Lane>], now: Instant) -> Option<Active> {
        if self.endpoints.borrow().has_changed().unwrap_or(false) {
            self.take_over();
        }
        let lanes = self.list.borrow();
        if let [only] = &lanes[..] {
            return Some(Active::on(only));
        }
        let healthy = |lane: &Lane| lane.endpoint.state(now) == State::Healthy;
        let lane = self
            .least(&lanes, |lane| !was_tried(lane, tried) && healthy(lane))
            .or_else(|| self.least(&lanes, |lane| !was_tried(lane, tried)))
            .or_else(|| self.least(&lanes, |lane| healthy(lane)))
            .or_else(|| self.least(&lanes, |_| true))?;
        Some(Active::on(lane))
    }

    /// Whether there is one that has not been tried.
    pub(super) fn any_left(&self, tried: &[Rc<Lane>]) -> bool {
        self.list.borrow().iter().any(|lane| !was_tried(lane, tried))
    }

    /// Waits until the names have been looked up for the first time, if they have not been.
    pub(super) async fn first_look_up(&self) {
        let mut endpoints = self.endpoints.borrow().clone();
        let looked_up = endpoints.wait_for(Endpoints::are_known);
        let _ = timeout(self.upstream.config.connect_timeout, looked_up).await;
        self.take_over();
    }

    fn least<'a>(&self, lanes: &'a [Rc<Lane>], may: impl Fn(&Rc<Lane>) -> bool) -> Option<&'a Rc<Lane>> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let (before, from) = lanes.split_at(turn % lanes.len().max(1));
        from.iter().chain(before).filter(|lane| may(lane)).min_by_key(|lane| lane.active())
    }

    /// Takes over the endpoints there are now, with the connections to those that there were before.
    fn take_over(&self) {
        let endpoints = self.endpoints.borrow_mut().borrow_and_update().clone();
        let mut lanes = self.list.borrow_mut();
        let before = std::mem::take(&mut *lanes);
        *lanes = endpoints
            .list()
            .iter()
            .map(|endpoint| {
                let known = before.iter().find(|lane| Arc::ptr_eq(&lane.endpoint, endpoint));
                known.cloned().unwrap_or_else(|| Lane::new(endpoint.clone(), self.upstream.clone()))
            })
            .collect();
    }
}

fn was_tried(lane: &Rc<Lane>, tried: &[Rc<Lane>]) -> bool {
    tried.iter().any(|other| Rc::ptr_eq(lane, other))
}
