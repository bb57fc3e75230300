//! Power cuts, refusals and lost answers, wherever they come.

use super::*;

#[test]
fn a_power_cut_between_any_two_writes_is_survived() {
    for steps in 0.. {
        let finished = run(async {
            let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
            let host = FakeHost::new(&machine.root, coordinator.seed());
            let fuse = Fuse::after(steps);
            machine.boot_until_cut(&host, &fuse).await;
            if !fuse.has_blown() {
                return true;
            }
            host.reboot();
            machine.boot(&host).await;
            check_ready(&machine, &host, &coordinator, &format!("cut at {steps}"));
            false
        });
        if finished {
            assert!(steps > 80, "the fuse was hardly in the way: {steps}");
            return;
        }
    }
}

#[test]
fn a_state_that_cannot_be_read_just_now_does_not_end_the_agent_for_good() {
    let file = "/var/lib/kiln/state.json";
    let machine = Machine::new();
    // It can be opened, and then reading it fails (EISDIR).
    machine.root.make_dirs(file, 0o700).unwrap();
    let error = store::load(&machine.root).unwrap_err();
    assert!(without_state(&machine.console, error).is_err(), "systemd starts it again");
    assert!(machine.said().starts_with("kiln: transient: reading "), "{}", machine.said());

    let machine = Machine::new();
    machine.root.make_dirs("/var/lib/kiln", 0o700).unwrap();
    machine.root.put(file, crate::root::Access::ours(0o600), b"{").unwrap();
    let error = store::load(&machine.root).unwrap_err();
    let code = without_state(&machine.console, error).unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::from(78)));
    assert!(machine.said().starts_with("kiln: format: reading "), "{}", machine.said());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Lost answers, refusals and power cuts in any order: an honest node ends
    /// up joined, with the one key it made.
    #[test]
    fn an_honest_node_always_ends_up_joined(
        faults in proptest::collection::vec((0..6usize, 0..4usize), 0..12),
        cuts in proptest::collection::vec(0..160u32, 0..5),
        rotate: bool,
    ) {
        run(async {
            let (machine, coordinator) = (Machine::new(), FakeCoordinator::started().await);
            let host = FakeHost::new(&machine.root, coordinator.seed());
            for (path, fault) in faults {
                let path = [api::ENROL, api::CONFIG, api::GATE, api::REPORT, api::OPEN, api::ROTATE][path];
                let fault = match fault {
                    0 => Fault::Lose,
                    1 => Fault::Raw("HTTP/1.1 500 X\r\ncontent-length: 3\r\n\r\n{}"),
                    2 => Fault::Refuse(ApiError::new(ErrorClass::Transient, "busy")),
                    _ => Fault::Refuse(ApiError::new(ErrorClass::Held, "held")),
                };
                coordinator.script().faults.push_back((path, fault));
            }
            coordinator.script().rotate = rotate;
            for steps in cuts {
                let fuse = Fuse::after(steps);
                machine.boot_until_cut(&host, &fuse).await;
                drop(fuse);
                host.reboot();
            }
            // What is refused for ever is not a passing fault.
            coordinator.script().faults.clear();
            machine.boot(&host).await;
            check_ready(&machine, &host, &coordinator, "at the end");
        });
    }
}
