//! What a route says of time, beside what its upstream says.

use super::*;

/// Long enough for every test, and leaked: a route lives as long as its snapshot.
fn on_route(timeouts: Timeouts) -> Limits<'static> {
    Limits { timeouts: Some(Box::leak(Box::new(timeouts))), ..Limits::default() }
}

#[test]
fn a_route_may_give_more_time() {
    run(async {
        let address = server(|_, mut stream| async move {
            read_head(&mut stream).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
        })
        .await;
        let limits = on_route(Timeouts { response: Some(PATIENCE), ..Timeouts::default() });
        let settings = Settings { response_timeout: Duration::from_millis(20), ..settings(vec![http(address)]) };
        let front = Front::with(settings, limits, Shared::new(None, Box::default())).await;

        assert_eq!(front.send(GET).await.status, 200);
    });
}

#[test]
fn what_takes_too_long_in_all_is_not_the_servers_fault() {
    let short = Some(Duration::from_millis(20));
    let too_late = Timeouts { response: short, ..Timeouts::default() };
    let too_long = Timeouts { total: short, ..Timeouts::default() };
    for (timeouts, error, is_in) in [(too_late, "Timeout(\"response_timeout\")", false), (too_long, "OutOfTime", true)]
    {
        run(async {
            let silent = || server(|_, mut stream| async move { while read_head(&mut stream).await.is_some() {} });
            let servers = vec![http(silent().await), http(silent().await)];
            let mut settings = settings(servers);
            settings.rules.eject.failures = 1;
            let rules = settings.rules.clone();
            let front = Front::with(settings, on_route(timeouts), Shared::new(None, Box::default())).await;

            assert_eq!(front.send(GET).await.error(), error);

            let asked = &front.shared.upstreams()[0].servers[0];
            assert_eq!(matches!(asked.standing.place(&rules, || 0), Place::In(_)), is_in, "{error}");
            eventually("cut", || front.counters(|c| c.open.load(Relaxed)) == 0).await;
        });
    }
}

#[test]
fn a_connection_is_used_again_after_the_end_of_what_it_served() {
    run(async {
        let (address, _heads) = steady(OK).await;
        let total = Duration::from_millis(1500);
        let limits = on_route(Timeouts { total: Some(total), ..Timeouts::default() });
        let front = Front::with(settings(vec![http(address)]), limits, Shared::new(None, Box::default())).await;
        assert_eq!(front.send(GET).await.status, 200);

        tokio::time::sleep(total * 2).await;

        assert_eq!(front.send(GET).await.status, 200);
        assert_eq!(front.counters(|c| (c.connects.load(Relaxed), c.tallies.reused())), (1, 1));
    });
}

#[test]
fn who_waits_for_anothers_connection_has_time_of_its_own() {
    run(async {
        for (why, heard) in [
            (UpstreamError::Timeout("connect_timeout"), None),
            (UpstreamError::Unreachable("refused"), Some(Err(UpstreamError::Unreachable("refused")))),
        ] {
            let sessions = crate::upstream::http2::Sessions::default();
            let departure = sessions.depart().ok().unwrap();
            let flight = sessions.depart().err().unwrap();
            let waiting = spawn_local(async move { flight.landed().await });
            tokio::task::yield_now().await;

            departure.fail(why);

            assert_eq!(waiting.await.unwrap(), heard);
            assert!(sessions.depart().is_ok(), "another may try");
        }
    });
}
