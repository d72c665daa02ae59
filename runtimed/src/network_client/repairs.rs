//! What netd has repaired becomes an event of the engine.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use linkspan_proto::net_v1::network_service_client::NetworkServiceClient;
use linkspan_proto::net_v1::{Repair, WatchRepairsRequest};
use linkspan_proto::time::{system_time, timestamp};

use crate::directory_watch::DirectoryWatch;
use crate::engine::Engine;
use crate::events::Events;

/// Follows netd's repairs for ever, across restarts of netd.
pub(crate) async fn follow(engine: Arc<Engine>) -> std::io::Error {
    let run: &Path = &engine.config.run;
    let watch = match DirectoryWatch::new(run) {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    let mut after = SystemTime::now();
    loop {
        // Why a stream ended does not matter: netd comes back and says so by its socket.
        let _ended = follow_one(&engine, &mut after).await;
        if let Err(error) = watch.changed().await {
            return error;
        }
    }
}

/// Follows one netd to its end.
async fn follow_one(engine: &Engine, after: &mut SystemTime) -> Result<(), tonic::Status> {
    let mut client = NetworkServiceClient::new(engine.network.channel.clone());
    let request = WatchRepairsRequest {
        after: Some(timestamp(*after)),
    };
    let mut repairs = client.watch_repairs(request).await?.into_inner();
    while let Some(response) = repairs.message().await? {
        let Some(repair) = response.repair else {
            continue;
        };
        if let Some(at) = repair.repaired_at.as_ref().and_then(system_time) {
            *after = at;
        }
        tell(&engine.events, repair);
    }
    Ok(())
}

fn tell(events: &Events, repair: Repair) {
    let Repair {
        subject,
        damage,
        network,
        endpoint_id,
        endpoint_name,
        repaired_at: _,
    } = repair;
    let id = if network.is_empty() {
        subject.clone()
    } else {
        network
    };
    let attributes = [
        ("container", endpoint_id),
        ("damage", damage),
        ("name", endpoint_name),
        ("subject", subject),
    ];
    let attributes: BTreeMap<_, _> = attributes
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    events.send("network", "repair", &id, attributes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_what_was_repaired_and_of_whom() {
        let events = Events::new();
        tell(
            &events,
            Repair {
                subject: "firewall".to_owned(),
                damage: "table deleted".to_owned(),
                ..Repair::default()
            },
        );
        tell(
            &events,
            Repair {
                subject: "bridge port lkaaaaaaaaaa".to_owned(),
                damage: "down".to_owned(),
                network: "bridge".to_owned(),
                endpoint_id: "a".repeat(64),
                endpoint_name: "db".to_owned(),
                repaired_at: None,
            },
        );
        let (told, _) = events.watch(Some(SystemTime::UNIX_EPOCH));
        assert_eq!((told[0].kind, told[0].id.as_str()), ("network", "firewall"));
        assert!(!told[0].attributes.contains_key("container"));
        assert_eq!(told[1].id, "bridge");
        assert_eq!(told[1].attributes["name"], "db");
        assert_eq!(told[1].attributes["damage"], "down");
    }
}
