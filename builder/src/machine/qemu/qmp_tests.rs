use super::*;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, DuplexStream};

/// The other end: answers what it is told to.
struct Fake {
    stream: BufReader<DuplexStream>,
}

impl Fake {
    async fn connected() -> (Qmp, Self) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let mut fake = Self { stream: BufReader::new(theirs) };
        fake.say(r#"{"QMP":{"version":{},"capabilities":[]}}"#).await;
        let (qmp, ()) = tokio::join!(Qmp::handshake(ours), async {
            let id = fake.hear("qmp_capabilities").await;
            fake.say(&format!(r#"{{"return":{{}},"id":{id}}}"#)).await;
        });
        (qmp.unwrap(), fake)
    }

    async fn say(&mut self, line: &str) {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self, command: &str) -> u64 {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["execute"], command);
        value["id"].as_u64().unwrap()
    }
}

fn stop() -> qapi::qmp::stop {
    qapi::qmp::stop {}
}

#[tokio::test]
async fn a_late_answer_and_unknown_lines_hurt_nobody() {
    let (qmp, mut fake) = Fake::connected().await;
    let timeout = Duration::from_millis(20);
    let error = qmp.run_within(stop(), timeout).await.unwrap_err();
    assert_eq!(error, QmpError::Timeout { command: "stop", after: timeout });
    let late = fake.hear("stop").await;
    fake.say(&format!(r#"{{"return":{{}},"id":{late}}}"#)).await;
    fake.say("nonsense").await;
    fake.say(r#"{"event":"SOMETHING_NEW","data":{"x":[1]},"timestamp":{}}"#).await;
    let (answer, ()) = tokio::join!(qmp.run(stop()), async {
        let id = fake.hear("stop").await;
        fake.say(&format!("\u{fffd}{{}}\n{{\"return\":{{}},\"id\":{id}}}")).await;
    });
    answer.unwrap();
}

#[tokio::test]
async fn a_cancelled_call_leaves_nothing_behind() {
    let (qmp, mut fake) = Fake::connected().await;
    let call = qmp.run(stop());
    tokio::select! {
        biased;
        _ = call => panic!("nobody answered"),
        _ = fake.hear("stop") => {}
    }
    assert!(lock(&qmp.answers).is_empty());
}

#[tokio::test]
async fn a_refusal_carries_qemus_words() {
    let (qmp, mut fake) = Fake::connected().await;
    let (answer, ()) = tokio::join!(qmp.run(stop()), async {
        let id = fake.hear("stop").await;
        fake.say(&format!(r#"{{"error":{{"class":"GenericError","desc":"no"}},"id":{id}}}"#)).await;
    });
    assert_eq!(answer.unwrap_err().to_string(), "QEMU refused stop: no");
}

#[tokio::test]
async fn the_reason_of_a_shutdown_is_kept_after_the_end() {
    let (qmp, mut fake) = Fake::connected().await;
    let mut events = qmp.events();
    fake.say(r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-panic"},"timestamp":{}}"#).await;
    drop(fake);
    qmp.closed().await;
    assert_eq!(events.recv().await.unwrap().name, "SHUTDOWN");
    assert_eq!(qmp.shutdown(), Some(Shutdown { guest: true, reason: "guest-panic".into() }));
    assert_eq!(qmp.run(stop()).await.unwrap_err(), QmpError::Closed("stop"));
}

#[tokio::test]
async fn a_connection_that_ends_answers_everybody() {
    let (qmp, mut fake) = Fake::connected().await;
    let (answer, ()) = tokio::join!(qmp.run(stop()), async {
        fake.hear("stop").await;
        fake.stream.get_mut().shutdown().await.unwrap();
        let mut rest = Vec::new();
        // The client is still there: reading would wait for it, so do not.
        let _ = tokio::time::timeout(Duration::from_millis(1), fake.stream.read_to_end(&mut rest)).await;
    });
    assert_eq!(answer.unwrap_err(), QmpError::Closed("stop"));
}

proptest! {
    #[test]
    fn any_line_is_taken_without_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(&line);
    }

    #[test]
    fn an_answer_is_found_by_its_number(id in any::<u64>(), reset in any::<bool>()) {
        let text = format!(r#"{{"return":{{"a":1}},"id":{id}}}"#);
        let mut line = if reset { vec![0xff] } else { Vec::new() };
        line.extend(text.as_bytes());
        prop_assert_eq!(
            Message::parse(&line),
            Some(Message::Answer { id, result: Ok(json!({"a": 1})) })
        );
    }
}
