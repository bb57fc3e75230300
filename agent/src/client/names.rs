//! What the name of a coordinator stands for: asked of the system anew for every
//! connection, as a network that comes up late knows it later.

use hyper_util::client::legacy::connect::dns::GaiResolver;

#[cfg(not(test))]
pub(super) fn resolver() -> GaiResolver {
    GaiResolver::new()
}

#[cfg(test)]
pub(super) use tests::resolver;

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::future::Future;
    use std::io;
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper_util::client::legacy::connect::dns::{GaiAddrs, Name};
    use tower_service::Service;

    use super::GaiResolver;

    /// A name that a test has a say about.
    #[derive(Default)]
    struct Told {
        addresses: Option<SocketAddr>,
        asked: usize,
    }

    thread_local! {
        static TOLD: RefCell<HashMap<String, Told>> = RefCell::default();
    }

    /// Nobody knows a name on this thread, until it is said to stand for an address.
    pub(crate) fn say(name: &str, address: Option<SocketAddr>) {
        TOLD.with_borrow_mut(|told| told.entry(name.to_owned()).or_default().addresses = address);
    }

    /// How often a name was asked for.
    pub(crate) fn asked(name: &str) -> usize {
        TOLD.with_borrow(|told| told.get(name).map_or(0, |name| name.asked))
    }

    /// The system's, but for the names that the test on this thread has a say about.
    #[derive(Debug, Clone)]
    pub(crate) struct Resolver(GaiResolver);

    pub(crate) fn resolver() -> Resolver {
        Resolver(GaiResolver::new())
    }

    pub(crate) enum Addresses {
        System(GaiAddrs),
        Told(std::option::IntoIter<SocketAddr>),
    }

    impl Iterator for Addresses {
        type Item = SocketAddr;
        fn next(&mut self) -> Option<SocketAddr> {
            match self {
                Self::System(addresses) => addresses.next(),
                Self::Told(addresses) => addresses.next(),
            }
        }
    }

    impl Service<Name> for Resolver {
        type Response = Addresses;
        type Error = io::Error;
        type Future = Pin<Box<dyn Future<Output = io::Result<Addresses>> + Send>>;

        fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.poll_ready(context)
        }

        fn call(&mut self, name: Name) -> Self::Future {
            let told = TOLD.with_borrow_mut(|told| {
                let name = told.get_mut(name.as_str())?;
                name.asked += 1;
                Some(name.addresses)
            });
            match told {
                None => {
                    let asked = self.0.call(name);
                    Box::pin(async { asked.await.map(Addresses::System) })
                }
                // As getaddrinfo(3) says it while no name server is reached.
                Some(None) => Box::pin(async {
                    Err(io::Error::other(
                        "failed to lookup address information: Temporary failure in name resolution",
                    ))
                }),
                Some(address) => Box::pin(async move { Ok(Addresses::Told(address.into_iter())) }),
            }
        }
    }
}
