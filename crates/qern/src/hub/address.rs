//! Which addresses a download may reach. The endpoint is the user's own choice; what it redirects to is not: a redirect
//! must not turn this machine into a way to reach its own network. Checked on the address that is dialled, so a name that
//! resolves differently the second time (DNS rebinding) gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// The text by which a refusal of the resolver is known again.
pub(super) const PRIVATE_ADDRESS: &str = "leads to a private address";

/// Resolves names, and refuses private addresses for hosts other than the endpoint's and the proxy's, unless the endpoint
/// itself is private.
#[derive(Debug)]
pub(super) struct GuardedResolver {
    /// Hosts that the user named: the endpoint and the proxy.
    pub(super) trusted: Vec<String>,
    /// The endpoint's host.
    pub(super) endpoint: String,
    /// Whether the endpoint was found to be on a private address.
    pub(super) endpoint_is_private: Arc<AtomicBool>,
}

impl Resolver for GuardedResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().unwrap_or_default();
        let addresses = DefaultResolver::default().resolve(uri, config, timeout)?;
        let private = addresses.iter().any(|address| is_private(address.ip()));
        if host.eq_ignore_ascii_case(&self.endpoint) {
            self.endpoint_is_private.store(private, Ordering::Relaxed);
        }
        let trusted = self.trusted.iter().any(|known| known.eq_ignore_ascii_case(host));
        if private && !trusted && !self.endpoint_is_private.load(Ordering::Relaxed) {
            return Err(Error::Other(format!("`{host}` {PRIVATE_ADDRESS}").into()));
        }
        Ok(addresses)
    }
}

/// Whether a host as written in a URL is itself a private address, or a name that always means this machine.
pub(super) fn is_private_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    match bare.parse::<IpAddr>() {
        Ok(address) => is_private(address),
        Err(_) => {
            let name = bare.to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

/// Whether an address is one that the public internet does not route: this machine, its own network, or reserved space.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => is_private_v6(v6),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b)) // carrier-grade NAT, RFC 6598
        || (a == 192 && b == 0 && c == 0) // protocol assignments, RFC 6890
        || (a == 198 && (b == 18 || b == 19)) // benchmarking, RFC 2544
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // Every way to write an IPv4 address inside an IPv6 one: mapped, compatible, NAT64 (RFC 6052) and 6to4 (RFC 3056).
    let embedded = match segments {
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some((high, low))
        }
        _ => None,
    };
    if let Some((high, low)) = embedded {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        return is_private_v4(Ipv4Addr::new(a, b, c, d));
    }
    address.is_multicast()
        || segments[0] & 0xfe00 == 0xfc00 // unique local, RFC 4193
        || segments[0] & 0xffc0 == 0xfe80 // link local
        || segments[0] & 0xffc0 == 0xfec0 // site local, deprecated
        || (segments[0] == 0x2001 && segments[1] == 0xdb8) // documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known_in_every_spelling() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
            assert!(is_private_host(private), "{private}");
        }
        for public in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn names_of_this_machine_are_private() {
        for name in ["localhost", "LOCALHOST", "localhost.", "a.localhost", "[::1]"] {
            assert!(is_private_host(name), "{name}");
        }
        assert!(!is_private_host("localhost.example"));
    }
}
