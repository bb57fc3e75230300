//! The cluster's tokens are rotated.

use super::*;

fn new_token() -> Secret {
    Secret::new("K10aa::server:new").unwrap()
}

fn token_chore() -> Chores {
    Chores { change_token: Some(TokenChange { serial: 1, token: new_token() }), ..Chores::default() }
}

/// A node that is ready and does chores until `story` is told.
async fn tends(machine: &Machine, host: &FakeHost<'_>, story: impl Future<Output = ()>) {
    let node = Node::new(&machine.root, host, &machine.console, pace());
    let state = machine.state();
    tokio::select! {
        () = node.tend(&state) => panic!("it stopped tending"),
        () = story => {}
    }
}

#[tokio::test]
async fn a_server_gives_k3s_another_token_and_says_so_once_that_is_certain() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    // k3s takes it, and its answer is lost: it is asked again.
    host.lose_token_answer.set(true);
    coordinator.script().chores.extend([token_chore(), token_chore()]);
    let done =
        || coordinator.script().chores_done.iter().any(|request| request.done.token_changed == Some(1));
    tends(&machine, &host, until(done)).await;
    assert_eq!(*host.datastore_token.borrow(), Some(new_token()));
    assert_eq!(token::present(&machine.root).unwrap(), Some(new_token()));
    let failed =
        |request: &ChoresRequest| request.done.failure.as_ref().is_some_and(|f| f.contains("in time"));
    assert!(coordinator.script().chores_done.iter().any(failed));
    let said = machine.said();
    assert!(!said.contains("server:new"), "{said}");
    // The coordinator may not have heard: its configuration is no way back.
    host.reboot();
    follows(&machine, &host, async {
        coordinator.script().config.users.clear();
        until(|| machine.said().contains("has new logins")).await;
    })
    .await;
    assert_eq!(token::present(&machine.root).unwrap(), Some(new_token()));
}

#[test]
fn a_power_cut_anywhere_in_a_rotation_of_the_token_is_survived() {
    for steps in 0.. {
        let finished = run(async {
            let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
            let host = FakeHost::new(&machine.root, coordinator.seed());
            machine.boot(&host).await;
            coordinator.script().chores.push_back(token_chore());
            let told = || {
                coordinator.script().chores_done.iter().any(|request| request.done.token_changed == Some(1))
            };
            let fuse = Fuse::after(steps);
            tends(&machine, &host, until(|| fuse.is_blown() || told())).await;
            if !fuse.has_blown() {
                return true;
            }
            // It comes up without the coordinator's help, under whichever token it is.
            host.reboot();
            machine.boot(&host).await;
            check_ready(&machine, &host, &coordinator, &format!("cut at {steps}"));
            coordinator.script().chores.push_back(token_chore());
            tends(&machine, &host, until(told)).await;
            assert_eq!(*host.datastore_token.borrow(), Some(new_token()), "cut at {steps}");
            assert_eq!(token::present(&machine.root).unwrap(), Some(new_token()), "cut at {steps}");
            false
        });
        if finished {
            assert!(steps > 2, "nothing was written");
            return;
        }
    }
}

#[tokio::test]
async fn a_server_whose_token_was_rotated_by_another_gives_it_to_its_own_k3s() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let rotated = || {
        let mut script = coordinator.script();
        script.config.k3s.token_serial = 1;
        let Membership::FirstServer { token, .. } = &mut script.config.k3s.membership else { panic!() };
        *token = new_token();
    };
    follows(&machine, &host, async {
        // Its k3s does not answer at first.
        let before = host.datastore_token.take();
        rotated();
        until(|| machine.said().contains("k3s has not taken the new token yet")).await;
        host.datastore_token.replace(before);
        until(|| machine.said().contains("has new token")).await;
    })
    .await;
    assert_eq!(*host.datastore_token.borrow(), Some(new_token()));
    assert_eq!(token::present(&machine.root).unwrap(), Some(new_token()));
}

#[tokio::test]
async fn a_server_that_was_off_while_the_token_was_rotated_comes_up_with_the_new_one() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    host.datastore_token.replace(Some(new_token()));
    {
        let mut script = coordinator.script();
        script.config.k3s.token_serial = 1;
        let Membership::FirstServer { token, .. } = &mut script.config.k3s.membership else { panic!() };
        *token = new_token();
    }
    host.reboot();
    machine.boot(&host).await;
    check_ready(&machine, &host, &coordinator, "with the new token");
    assert!(machine.said().contains("k3s finds another token at its next start"), "{}", machine.said());
}

#[tokio::test]
async fn a_token_that_was_rotated_while_a_node_waited_at_the_gate_is_fetched_before_k3s_starts() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    coordinator.script().gate.extend([wait_at_the_gate(), wait_at_the_gate()]);
    host.datastore_token.replace(Some(new_token()));
    let rotate = async {
        until(|| !coordinator.script().gates.is_empty()).await;
        let mut script = coordinator.script();
        script.config.k3s.token_serial = 1;
        let Membership::FirstServer { token, .. } = &mut script.config.k3s.membership else { panic!() };
        *token = new_token();
    };
    let (outcome, ()) = tokio::join!(machine.boot(&host), rotate);
    assert_eq!(outcome, Outcome::Ready);
    assert!(!machine.said().contains("another token at its next start"), "{}", machine.said());
}
