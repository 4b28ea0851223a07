//! How many connections each client address has.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;

use crate::http::network_of;

/// The count of all listeners' connections by address. Cheap to clone. Only acceptors and connections that end look at
/// it, and no address is in it that has no connection.
#[derive(Clone)]
pub(super) struct Addresses {
    /// `None` counts nothing.
    most: Option<usize>,
    proxies: Arc<[IpNet]>,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection among those of its address, until it is dropped.
pub(super) struct Counted(Option<(Addresses, IpAddr)>);

impl Addresses {
    /// At most so many connections for each address that is none of the proxies', who come for many.
    pub(super) fn new(most: Option<usize>, proxies: &[IpNet]) -> Self {
        Self { most, proxies: proxies.into(), open: Arc::default() }
    }

    /// Takes a connection in; `None` when its address has as many as it may.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Counted> {
        let address = address.to_canonical();
        let Some(most) = self.most else { return Some(Counted(None)) };
        if self.proxies.iter().any(|net| net.contains(&address)) {
            return Some(Counted(None));
        }
        let network = network_of(address);
        let mut open = self.open();
        let count = open.entry(network).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted(Some((self.clone(), network))))
    }

    /// A panic elsewhere leaves no count half made.
    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some((addresses, network)) = &self.0 else { return };
        let mut open = addresses.open();
        if let Some(count) = open.get_mut(network) {
            *count -= 1;
            if *count == 0 {
                open.remove(network);
            }
        }
    }
}
