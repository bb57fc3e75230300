//! A ready server does chores.

use super::*;

fn chores(text: &str) -> Chores {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn a_ready_server_does_chores_and_tells_what_was_done() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    host.log.borrow_mut().clear();
    let token = r#"{"make_tokens":[{"id":"00000a","secret":"0123456789abcdef","node":"a1"}]}"#;
    let delete = r#"{"delete_tokens":["00000b"],"delete_nodes":["a2","s2"],"list_members":true}"#;
    coordinator.script().chores.extend([chores(token), chores(delete)]);
    coordinator.script().faults.push_back((CHORES, Fault::Lose));
    let node = Node::new(&machine.root, &host, &machine.console, pace());
    let state = machine.state();
    tokio::select! {
        () = node.tend(&state) => panic!("a server tends for ever"),
        () = until(|| coordinator.script().chores_done.len() > 3) => {}
    }
    let done: Vec<_> = coordinator.script().chores_done.iter().map(|request| request.done.clone()).collect();
    let told = done.iter().find(|done| !done.nodes_deleted.is_empty()).unwrap();
    assert_eq!(told.tokens_deleted, ["00000b".parse().unwrap()]);
    assert_eq!(told.members.as_ref().unwrap()[0].name, "s1-0badcafe");
    let log = host.log.borrow().join("\n");
    assert!(log.contains("--namespace=kube-system bootstrap-token-00000b"), "{log}");
    assert!(log.contains("kubectl delete --ignore-not-found --timeout=20s node a2 s2"), "{log}");
}

#[tokio::test]
async fn join_tokens_reach_kubectl_over_its_standard_input_only() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let host = FakeHost::new(&machine.root, coordinator.seed());
    machine.boot(&host).await;
    let token = r#"{"make_tokens":[{"id":"00000a","secret":"0123456789abcdef","node":"a1"}]}"#;
    host.kubectl_error.replace(Some("kubectl: the API server is not up".to_owned()));
    coordinator.script().chores.push_back(chores(token));
    let node = Node::new(&machine.root, &host, &machine.console, pace());
    let failed = || coordinator.script().chores_done.iter().any(|request| request.done.failure.is_some());
    let made = || coordinator.script().chores_done.iter().any(|request| !request.done.tokens_made.is_empty());
    let state = machine.state();
    tokio::select! {
        () = node.tend(&state) => panic!("a server tends for ever"),
        () = async {
            until(failed).await;
            host.kubectl_error.replace(None);
            coordinator.script().chores.push_back(chores(token));
            until(made).await;
        } => {}
    }
    let fed = host.fed.borrow();
    let secret: serde_json::Value = serde_json::from_str(fed.last().unwrap()).unwrap();
    let item = &secret["items"][0];
    assert_eq!(item["metadata"]["name"], "bootstrap-token-00000a");
    assert_eq!(item["type"], "bootstrap.kubernetes.io/token");
    assert_eq!(item["stringData"]["token-secret"], "0123456789abcdef");
    assert!(!host.log.borrow().join("\n").contains("0123456789abcdef"), "a secret in a command line");
}

#[tokio::test]
async fn an_agent_or_a_node_that_is_not_ready_tends_nothing() {
    let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
    let member = r#"{"kind": "agent", "server": "10.77.0.11:6443", "token": "K10aa::00000a.b"}"#;
    coordinator.script().config.k3s.membership = serde_json::from_str(member).unwrap();
    let host = FakeHost::new(&machine.root, coordinator.seed());
    let node = Node::new(&machine.root, &host, &machine.console, pace());
    node.tend(&machine.state()).await;
    machine.boot(&host).await;
    node.tend(&machine.state()).await;
    assert!(coordinator.script().chores_done.is_empty());
}
