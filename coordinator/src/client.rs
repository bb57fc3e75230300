//! The admin's side of the API: what the CLI speaks, and whatever else holds
//! an admin key.

use std::error::Error as StdError;
use std::path::Path;
use std::time::Duration;

use kiln_protocol::admin::{
    ADD_ADMIN, ADMINS, APPLY, APPROVE, AddAdminRequest, AdminsAnswer, ApplyAnswer, ApplyRequest,
    ApproveAnswer, ApproveRequest, CONFIRM, ClusterStatus, ConfirmAnswer, ConfirmRequest, END, EVENTS,
    EXTEND, EndAnswer, EndRequest, EventsAnswer, EventsRequest, ExtendAnswer, ExtendRequest, KUBECONFIG,
    KubeconfigAnswer, KubeconfigRequest, MEMBER_GONE, MINT, MintRequest, NodeRequest, RAISE_EPOCH, RELEASE,
    REMOVE_ADMIN, REPLACE, REVOKE, ROTATE, ROTATE_TOKENS, RemoveAdminRequest, ReplaceRequest, STATUS,
};
use kiln_protocol::ratchet::Reach;
use kiln_protocol::ticket::Address;
use kiln_protocol::tls::{self, PinMismatch};
use kiln_protocol::{ApiError, Fingerprint, Identity};
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// For the connection to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// For a whole request.
const REQUEST: Duration = Duration::from_secs(30);

/// Besides what is waited for on purpose.
const WAIT_MARGIN: Duration = Duration::from_secs(15);

/// A request that did not do what it was for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error("the coordinator at {address} does not answer ({why}): is it running, and is this its address?")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What happened instead.
        why: String,
    },
    /// Somebody else answers.
    #[error("at {address}: {mismatch}")]
    Pin {
        /// Where.
        address: String,
        /// Which key was found.
        mismatch: PinMismatch,
    },
    /// The coordinator said no.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The answer is not one.
    #[error("the answer of the coordinator at {address} makes no sense: {why}")]
    Answer {
        /// Where.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// No request could be made.
    #[error("preparing to speak TLS: {0}")]
    Setup(String),
}

/// A connection to a coordinator, with an admin's key.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// What comes before a path.
    base: String,
    /// As people call it.
    address: String,
}

impl Client {
    /// Prepares to speak to the coordinator whose key is `pin` at `address`.
    pub fn new(address: &Address, identity: &Identity, pin: Fingerprint) -> Result<Self, ClientError> {
        let setup = |error: &dyn StdError| ClientError::Setup(chain(error));
        let tls = tls::client_config(identity, pin).map_err(|error| setup(&error))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .build()
            .map_err(|error| setup(&error))?;
        Ok(Self { http, base: format!("https://{address}"), address: address.to_string() })
    }

    /// Prepares to speak to the coordinator on this host whose socket is at
    /// `path`. The kernel tells it who asks.
    pub fn local(path: &Path) -> Result<Self, ClientError> {
        // Without TLS; but the client wants a provider for it anyway.
        let setup = |error: &dyn StdError| ClientError::Setup(chain(error));
        let nobody = Identity::generate().map_err(|error| setup(&error))?;
        let tls = tls::client_config(&nobody, nobody.fingerprint()).map_err(|error| setup(&error))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .unix_socket(path)
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .build()
            .map_err(|error| setup(&error))?;
        Ok(Self { http, base: "http://coordinator".to_owned(), address: path.display().to_string() })
    }

    /// What an operator sees.
    pub async fn status(&self) -> Result<ClusterStatus, ClientError> {
        self.answer(self.send(Method::GET, STATUS, None::<&()>).await?).await
    }

    /// Registers a ticket's public key.
    pub async fn mint(&self, request: &MintRequest) -> Result<(), ClientError> {
        self.send(Method::POST, MINT, Some(request)).await.map(drop)
    }

    /// Makes a kubeconfig.
    pub async fn kubeconfig(&self, request: &KubeconfigRequest) -> Result<KubeconfigAnswer, ClientError> {
        self.answer(self.send(Method::POST, KUBECONFIG, Some(request)).await?).await
    }

    /// Trusts a held node's key again.
    pub async fn release(&self, request: &NodeRequest) -> Result<(), ClientError> {
        self.send(Method::POST, RELEASE, Some(request)).await.map(drop)
    }

    /// Takes every right of a node away.
    pub async fn revoke(&self, request: &NodeRequest) -> Result<(), ClientError> {
        self.send(Method::POST, REVOKE, Some(request)).await.map(drop)
    }

    /// Says which key the console of a node's machine shows.
    pub async fn confirm(&self, request: &ConfirmRequest) -> Result<ConfirmAnswer, ClientError> {
        self.answer(self.send(Method::POST, CONFIRM, Some(request)).await?).await
    }

    /// Takes a machine without a ticket for a node.
    pub async fn approve(&self, request: &ApproveRequest) -> Result<ApproveAnswer, ClientError> {
        self.answer(self.send(Method::POST, APPROVE, Some(request)).await?).await
    }

    /// Wants a node's key replaced at its next contact.
    pub async fn rotate(&self, request: &NodeRequest) -> Result<(), ClientError> {
        self.send(Method::POST, ROTATE, Some(request)).await.map(drop)
    }

    /// Gives the live cluster other tokens.
    pub async fn rotate_tokens(&self) -> Result<(), ClientError> {
        self.send(Method::POST, ROTATE_TOKENS, None::<&()>).await.map(drop)
    }

    /// Decides for the state that is served, whatever later one nodes have seen.
    pub async fn raise_epoch(&self) -> Result<Reach, ClientError> {
        self.answer(self.send(Method::POST, RAISE_EPOCH, None::<&()>).await?).await
    }

    /// Gives an unused ticket more time.
    pub async fn extend(&self, request: &ExtendRequest) -> Result<ExtendAnswer, ClientError> {
        self.answer(self.send(Method::POST, EXTEND, Some(request)).await?).await
    }

    /// Puts a cluster file in force.
    pub async fn apply(&self, request: &ApplyRequest) -> Result<ApplyAnswer, ClientError> {
        self.answer(self.send(Method::POST, APPLY, Some(request)).await?).await
    }

    /// Ends the live incarnation of a cluster.
    pub async fn end(&self, request: &EndRequest) -> Result<EndAnswer, ClientError> {
        self.answer(self.send(Method::POST, END, Some(request)).await?).await
    }

    /// A part of the audit trail; waits for one if that is asked for.
    pub async fn events(&self, request: EventsRequest) -> Result<EventsAnswer, ClientError> {
        let time = Duration::from_secs(request.wait.into()) + WAIT_MARGIN;
        self.answer(self.send_within(Method::POST, EVENTS, Some(&request), time).await?).await
    }

    /// Every admin's key there ever was.
    pub async fn admins(&self) -> Result<AdminsAnswer, ClientError> {
        self.answer(self.send(Method::GET, ADMINS, None::<&()>).await?).await
    }

    /// Makes a key an admin's.
    pub async fn add_admin(&self, request: &AddAdminRequest) -> Result<(), ClientError> {
        self.send(Method::POST, ADD_ADMIN, Some(request)).await.map(drop)
    }

    /// Takes an admin's key every right.
    pub async fn remove_admin(&self, request: &RemoveAdminRequest) -> Result<(), ClientError> {
        self.send(Method::POST, REMOVE_ADMIN, Some(request)).await.map(drop)
    }

    /// Gives up the datastore of a lost server.
    pub async fn replace(&self, request: &ReplaceRequest) -> Result<(), ClientError> {
        self.send(Method::POST, REPLACE, Some(request)).await.map(drop)
    }

    /// Says that etcd has no member of a server any more.
    pub async fn member_gone(&self, request: &NodeRequest) -> Result<(), ClientError> {
        self.send(Method::POST, MEMBER_GONE, Some(request)).await.map(drop)
    }

    async fn send<T: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&T>,
    ) -> Result<reqwest::Response, ClientError> {
        self.send_within(method, path, body, REQUEST).await
    }

    async fn send_within<T: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&T>,
        time: Duration,
    ) -> Result<reqwest::Response, ClientError> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).timeout(time);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.transport(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.map_err(|error| self.transport(&error))?;
        match serde_json::from_str::<ApiError>(&text) {
            Ok(refusal) => Err(refusal.into()),
            Err(_) => Err(self.nonsense(format!("HTTP {status}"))),
        }
    }

    async fn answer<T: DeserializeOwned>(&self, response: reqwest::Response) -> Result<T, ClientError> {
        let bytes = response.bytes().await.map_err(|error| self.transport(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| self.nonsense(error.to_string()))
    }

    fn transport(&self, error: &reqwest::Error) -> ClientError {
        let address = self.address.clone();
        match PinMismatch::find(error) {
            Some(mismatch) => ClientError::Pin { address, mismatch },
            None if tls::is_not_tls(error) => {
                let why = "what answers there does not speak TLS".to_owned();
                ClientError::Unreachable { address, why }
            }
            None if tls::is_foreign_tls(error) => {
                let why = format!("{}; perhaps a proxy between ends TLS", innermost(error));
                ClientError::Unreachable { address, why }
            }
            None => ClientError::Unreachable { address, why: innermost(error) },
        }
    }

    fn nonsense(&self, why: String) -> ClientError {
        ClientError::Answer { address: self.address.clone(), why }
    }
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The cause that people know: "Connection refused (os error 111)".
fn innermost(error: &dyn StdError) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
