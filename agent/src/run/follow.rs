//! A node that is ready follows its configuration: it holds a question open at
//! the coordinator, and what changes and may be changed while k3s runs is
//! changed: who may log in, the network, and the cluster's tokens. What else k3s
//! was started with is compared and reported, and never touched.

use std::pin::pin;
use std::time::Duration;

use kiln_protocol::ApiError;
use kiln_protocol::api::{MAX_WAIT, Step};
use kiln_protocol::config::{Incarnation, NodeConfig};
use kiln_protocol::error::ErrorClass;
use tokio::time::{Instant, sleep, sleep_until};

use super::driver::Node;
use super::join::check;
use super::state::{Home, State};
use crate::applied::Applied;
use crate::apply::k3s;
use crate::facts;
use crate::host::Host;
use crate::progress::deliver;
use crate::retry::{Backoff, Failure, Pace, random};

/// What a node has heard of its configuration.
#[derive(Default)]
struct Heard {
    /// The tag of the last one.
    tag: Option<String>,
    /// Why that one could not be made so.
    failure: Option<ApiError>,
}

/// How long one question is held open.
fn hold() -> Duration {
    Duration::from_secs(MAX_WAIT.into())
}

impl<H: Host> Node<'_, H> {
    /// Goes on from a state in which the node is ready, for ever. An absent
    /// coordinator is looked for every few minutes and costs the node nothing.
    pub async fn follow(&self, state: State) {
        let State::Ready { home, incarnation } = state else { return };
        self.link.begin();
        let delivering = pin!(deliver(&self.progress.queue, &self.link, self.pace));
        tokio::select! {
            () = self.watch_configuration(home, incarnation) => {}
            () = delivering => {}
        }
    }

    async fn watch_configuration(&self, mut home: Home, incarnation: Incarnation) {
        let pace = Pace { longest: self.pace.operator, ..self.pace };
        let (mut backoff, mut heard, mut trouble) = (Backoff::new(pace), Heard::default(), None);
        let mut epoch = self.epoch();
        loop {
            let not_before = Instant::now() + self.pace.first.mul_f64(0.5 + random() / 2.0);
            // Without a way to the coordinator everything else waits for ever.
            let settled = self.settle_network(&home).await;
            if !matches!(settled, Ok(false)) {
                // It is to be heard again with what the network is now.
                heard = Heard::default();
            }
            if settled.is_ok() && self.rotation_due(&home).unwrap_or(false) {
                let state = State::Ready { home: home.clone(), incarnation };
                if let State::Ready { home: now, .. } = self.rotate_if_due(state).await {
                    home = now;
                }
            }
            let news = match settled {
                Ok(_) => self.next_configuration(&home, incarnation, &mut heard).await,
                Err(failure) => Err(failure),
            };
            match news {
                Ok(news) => {
                    backoff = Backoff::new(pace);
                    let now = self.epoch();
                    if now > epoch {
                        // Its state may be a copy that was made before the node was ready.
                        (epoch, trouble) = (now, None);
                        let now = now.unwrap_or_default();
                        self.say(&home, &format!("is known to the coordinator's state of epoch {now}"));
                    }
                    if let Some(failure) = &heard.failure {
                        // It is the same configuration as before.
                        self.tell_trouble(&mut trouble, failure, Duration::ZERO);
                    } else if let Some(note) = news.or_else(|| trouble.is_some().then(String::new)) {
                        trouble = None;
                        self.say(&home, &note);
                    }
                }
                Err(failure) => {
                    let failure = Failure { offline: false, ..failure };
                    let wait = backoff.after(&failure, random());
                    self.tell_trouble(&mut trouble, &failure.error, wait);
                    sleep(wait).await;
                }
            }
            // Whoever answers at once, always, is not asked all the time.
            sleep_until(not_before).await;
        }
    }

    /// Tells of a failure once. An absent coordinator is no trouble of a node that
    /// is ready.
    fn tell_trouble(&self, trouble: &mut Option<ApiError>, error: &ApiError, wait: Duration) {
        if error.class != ErrorClass::Transient && trouble.as_ref() != Some(error) {
            self.progress.failed(Step::Ready, error, wait);
            *trouble = Some(error.clone());
        }
    }

    /// The epoch of the coordinator's state, as far as the node was told.
    fn epoch(&self) -> Option<u64> {
        let seen = self.bond().ok().and_then(|bond| bond.seen());
        seen.map(|stamp| stamp.reach.epoch)
    }

    fn say(&self, home: &Home, note: &str) {
        if let Some(differs) = note.strip_prefix("k3s ") {
            return self.progress.running(Step::Ready, &format!("k3s {differs}"));
        }
        let note = if note.is_empty() { "follows its configuration" } else { note };
        let line = format!("{} {note}", home.bound.node);
        self.progress.done(Step::Ready, &line, facts::collect(self.root));
    }

    /// Waits for another configuration and makes it so. Returns what came of
    /// it, in words; nothing if nothing changed.
    async fn next_configuration(
        &self,
        home: &Home,
        incarnation: Incarnation,
        heard: &mut Heard,
    ) -> Result<Option<String>, Failure> {
        let client = self.client_for(home)?;
        let Some((config, tag)) = client.config_after(heard.tag.as_deref(), hold()).await? else {
            return Ok(None);
        };
        // Once is enough, whatever comes of it: it is the same the next time.
        heard.tag = Some(tag);
        if config.rotate {
            client.ask_rotation();
        }
        let adopted = self.adopt(home, incarnation, &config, &mut heard.tag).await;
        heard.failure = adopted.as_ref().err().map(|failure| failure.error.clone());
        adopted
    }

    /// A network that cannot be had keeps the node from nothing else.
    async fn adopt(
        &self,
        home: &Home,
        incarnation: Incarnation,
        config: &NodeConfig,
        seen: &mut Option<String>,
    ) -> Result<Option<String>, Failure> {
        check(config, home)?;
        if config.incarnation != incarnation {
            let message = format!(
                "this node belongs to incarnation {incarnation} of the cluster, which is at {} now",
                config.incarnation
            );
            return Err(ApiError::new(ErrorClass::Policy, message).hint("make the machine anew").into());
        }
        let mut changed = Vec::new();
        let known = Applied::load(self.root)?;
        let mut applied = known.clone().unwrap_or_else(|| Applied::of(config));
        if known.is_none() {
            applied.save(self.root)?;
        }
        if applied.users != config.users {
            self.set_users(&mut applied, config)?;
            changed.push("logins");
        }
        // k3s may not be there to hear of it: it is told again.
        let token = self.follow_token(config).await.inspect_err(|_| *seen = None);
        changed.extend(matches!(token, Ok(true)).then_some("token"));
        let network = self.follow_network(home, &mut applied, config).await;
        changed.extend(matches!(network, Ok(true)).then_some("network"));
        let note = self.outcome(config, &changed)?;
        if let (Err(_), Some(note)) = (&network, &note) {
            self.progress.note(Step::Ready, &format!("{}: {note}", home.bound.node));
        }
        network?;
        token?;
        Ok(note)
    }

    /// True if the cards have other settings now. Those that were refused in this
    /// run are not tried again before others were good.
    async fn follow_network(
        &self,
        home: &Home,
        applied: &mut Applied,
        config: &NodeConfig,
    ) -> Result<bool, Failure> {
        if applied.before.is_none() && applied.network == config.network {
            self.refused_network.replace(None);
            return Ok(false);
        }
        let changing = match self.refused_before(&config.network) {
            // Their place is not taken yet by what there was before.
            Some(refused) if applied.before.is_some() => Err(self.give_back(applied, refused).await),
            Some(refused) => Err(refused.into()),
            None => {
                let before = applied.network.clone();
                self.change_network(home, applied, before, &config.network).await
            }
        };
        // Once is enough, and nobody would hear of what passes.
        changing.map_err(|failure| ApiError { class: ErrorClass::Policy, ..failure.error })?;
        Ok(true)
    }

    /// What came of a configuration, in words.
    fn outcome(&self, config: &NodeConfig, changed: &[&str]) -> Result<Option<String>, Failure> {
        let interface = k3s::interface_of(config.k3s.node_ip, &self.host.addresses()).unwrap_or_default();
        let host = k3s::HostPart { interface, selinux: self.host.selinux() };
        let differs = k3s::differences(self.root, config, &host)?;
        if !differs.is_empty() {
            return Ok(Some(format!(
                "k3s was started with another {}: what it was started with is not changed while it runs; \
                 make the machine anew to have it changed",
                differs.join(", ")
            )));
        }
        Ok((!changed.is_empty()).then(|| format!("has new {}", changed.join(" and "))))
    }

    /// Has those log in who may, and nobody else of whom we know.
    pub(super) fn set_users(&self, applied: &mut Applied, config: &NodeConfig) -> Result<(), Failure> {
        *applied = applied.with_users(&config.users);
        applied.save(self.root)?;
        for user in &config.users {
            self.host.add_user(user)?;
        }
        for (name, keys) in applied.unwanted_keys(&config.users) {
            self.host.remove_keys(&name, &keys)?;
        }
        applied.users.clone_from(&config.users);
        Ok(applied.save(self.root)?)
    }
}
