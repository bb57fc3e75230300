//! A connection is taken apart while nothing is said over it, or while its
//! question waits: nothing of what is sent meanwhile may be lost or be taken
//! for something else.

use std::time::Duration;

use kiln_coordinator::Limits;
use kiln_protocol::ratchet::OpenRequest;
use kiln_protocol::{Identity, api, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::common::{World, cluster_file};
use super::transport::{PATIENCE, connect, drain};
use kiln_coordinator::plan::ClusterFile;

type Stream = TlsStream<TcpStream>;

/// An enrolled node's connection, opened, on which every byte is the test's.
async fn opened(world: &World, node: &str) -> Stream {
    let identity = Identity::generate().unwrap();
    let machine = world.machine_with(&identity);
    machine.enrol(&world.ticket(node).await).await.unwrap();
    let config = tls::client_config(&identity, world.coordinator.pin()).unwrap();
    let mut stream = connect(world, config).await.unwrap();
    let turn = machine.ratchet.lock().await.turn();
    let body = serde_json::to_string(&OpenRequest::new(turn, None)).unwrap();
    let length = body.len();
    let request = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}", api::OPEN);
    stream.write_all(request.as_bytes()).await.unwrap();
    let (head, _) = answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    stream
}

/// One answer, and no byte of the next: its head and its body.
async fn answer(stream: &mut Stream) -> (String, String) {
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).await.unwrap();
        (head, String::from_utf8(body).unwrap())
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("it was not answered")
}

/// The configuration's tag, asked for over this connection.
async fn tag(stream: &mut Stream) -> String {
    stream.write_all(format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", api::CONFIG).as_bytes()).await.unwrap();
    let (head, _) = answer(stream).await;
    head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned()
}

fn question(tag: &str) -> String {
    format!("GET {} HTTP/1.1\r\nhost: x\r\nif-none-match: {tag}\r\nprefer: wait=300\r\n\r\n", api::CONFIG)
}

async fn connected(world: &World, node: &str, expected: bool) {
    let seen = async {
        while world.node(node).await.connected != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("its node's connection was not noticed");
}

/// Makes news for every node.
async fn change(world: &World, user: &str) {
    let users = format!(
        "[cluster]\nusers = [{{ name = \"{user}\", authorized_keys = \
         [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHlq me\"] }}]"
    );
    let text = cluster_file(1).text().replacen("[cluster]", &users, 1);
    world.coordinator.apply(&ClusterFile::parse(&text).unwrap()).await.unwrap();
}

#[tokio::test]
async fn one_connection_waits_and_is_answered_again_and_again() {
    let world = World::new().await;
    let mut stream = opened(&world, "a1").await;
    let mut seen = tag(&mut stream).await;
    for user in ["one", "two", "three"] {
        stream.write_all(question(&seen).as_bytes()).await.unwrap();
        connected(&world, "a1", true).await;
        change(&world, user).await;
        let (head, body) = answer(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200") && body.contains(user), "{head}{body}");
        seen = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
        connected(&world, "a1", false).await;
    }
    // And asked for other things in between.
    assert_eq!(tag(&mut stream).await, seen);
}

#[tokio::test]
async fn what_is_sent_behind_a_question_that_waits_is_answered_after_it() {
    let world = World::new().await;
    let mut stream = opened(&world, "a1").await;
    let seen = tag(&mut stream).await;
    let both = format!("{}GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n", question(&seen));
    stream.write_all(both.as_bytes()).await.unwrap();
    connected(&world, "a1", true).await;
    // In pieces, while it waits.
    stream.write_all(b"GET /nothing HTTP/1.1\r\n").await.unwrap();
    change(&world, "one").await;
    let (head, body) = answer(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200") && body.contains("one"), "{head}{body}");
    stream.write_all(b"host: x\r\n\r\n").await.unwrap();
    for _ in 0..2 {
        let (head, _) = answer(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    }
}

#[tokio::test]
async fn whoever_hangs_up_while_its_question_waits_is_gone() {
    let world = World::new().await;
    let mut stream = opened(&world, "a1").await;
    let seen = tag(&mut stream).await;
    stream.write_all(question(&seen).as_bytes()).await.unwrap();
    connected(&world, "a1", true).await;
    drop(stream);
    connected(&world, "a1", false).await;
}

/// One turn, which is over after a while: of two nodes, one says half of a question.
#[tokio::test]
async fn whoever_is_slow_to_say_something_keeps_nobody_from_speaking() {
    let mut limits = Limits::default();
    (limits.speaking, limits.turn) = (1, Duration::from_millis(50));
    let world = World::within(1, limits).await;
    let (mut slow, mut other) = (opened(&world, "a1").await, opened(&world, "a2").await);
    slow.write_all(b"GET /nothing HTTP/1.1\r\n").await.unwrap();
    let seen = tag(&mut other).await;
    // Who waits for news has no turn.
    other.write_all(question(&seen).as_bytes()).await.unwrap();
    connected(&world, "a2", true).await;
    slow.write_all(b"host: x\r\n\r\n").await.unwrap();
    let (head, _) = answer(&mut slow).await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    change(&world, "one").await;
    let (_, body) = answer(&mut other).await;
    assert!(body.contains("one"), "{body}");
}

/// Turns that are never over by themselves: those who rest or wait have none, and
/// those who are told news at the same time have one after the other.
#[tokio::test]
async fn nodes_that_hear_news_together_speak_in_turn() {
    let mut limits = Limits::default();
    (limits.speaking, limits.turn) = (1, 100 * PATIENCE);
    let world = World::within(1, limits).await;
    let mut waiting = Vec::new();
    for node in ["s1", "a1", "a2"] {
        let mut stream = opened(&world, node).await;
        let seen = tag(&mut stream).await;
        stream.write_all(question(&seen).as_bytes()).await.unwrap();
        connected(&world, node, true).await;
        waiting.push(stream);
    }
    change(&world, "one").await;
    for stream in &mut waiting {
        let (_, body) = answer(stream).await;
        assert!(body.contains("one"), "{body}");
    }
}

#[tokio::test]
async fn what_was_not_read_of_a_body_is_no_request() {
    let mut limits = Limits::default();
    limits.header = Duration::from_secs(2);
    let world = World::within(1, limits).await;
    let mut stream = opened(&world, "a1").await;
    let hidden = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", api::CONFIG);
    let body = hidden.repeat(2 * api::MAX_BODY / hidden.len());
    let length = body.len();
    let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n", api::ENROL);
    // The other side may close before it has read all of it.
    let _ = stream.write_all([head, body].concat().as_bytes()).await;
    let answers = String::from_utf8(drain(&mut stream).await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    assert!(answers.starts_with("HTTP/1.1 413"), "{answers}");
}

#[tokio::test]
async fn a_connection_at_rest_ends_after_a_while_and_one_that_asked_to_at_once() {
    let mut limits = Limits::default();
    limits.header = Duration::from_millis(300);
    let world = World::within(1, limits).await;
    let mut stream = opened(&world, "a1").await;
    assert_eq!(drain(&mut stream).await, b"");

    let world = World::new().await;
    let mut stream = opened(&world, "a1").await;
    let last = format!("GET {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", api::CONFIG);
    stream.write_all(last.as_bytes()).await.unwrap();
    let answers = String::from_utf8(drain(&mut stream).await).unwrap();
    assert!(answers.starts_with("HTTP/1.1 200"), "{answers}");
}
