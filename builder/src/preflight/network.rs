//! Whether the places that inputs are downloaded from can be reached.

use std::time::Duration;

use super::Finding;

/// Where AlmaLinux and k3s come from unless given by path.
const PLACES: [(&str, u16); 2] = [("repo.almalinux.org", 443), ("github.com", 443)];
const TIMEOUT: Duration = Duration::from_secs(5);

/// All of them, at once.
pub(super) async fn check() -> Vec<Finding> {
    let [(first, port), (second, other)] = PLACES;
    let (first, second) = tokio::join!(reach(first, port), reach(second, other));
    vec![first, second]
}

async fn reach(host: &str, port: u16) -> Finding {
    let name = format!("network {host}");
    let connected = tokio::time::timeout(TIMEOUT, tokio::net::TcpStream::connect((host, port))).await;
    let why = match connected {
        Ok(Ok(_)) => return Finding::ok(&name, format!("port {port} answers")),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
    };
    Finding::warning(&name, why, "give --iso, --k3s and the others by path, or bake with --offline")
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[tokio::test]
    async fn a_host_is_reached_or_the_way_without_it_is_named() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(reach("127.0.0.1", port).await.status, Status::Ok);
        drop(listener);
        let closed = reach("127.0.0.1", port).await;
        assert_eq!(closed.status, Status::Warning);
        assert!(closed.remedy.unwrap().contains("by path"));
    }
}
