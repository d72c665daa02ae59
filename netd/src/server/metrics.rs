//! What was counted, as OpenMetrics text. Reads the kernel once for each text.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry;

use crate::firewall::counter::Counter;
use crate::network::traffic::{self, Everything, NetworkTraffic, PortStatus, Traffic};
use crate::network::{NetworkError, Registry};

/// What a reader is told that the text is.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counts everything and writes it down; waits for the kernel.
pub(super) fn text(registry: &Registry) -> Result<String, NetworkError> {
    Ok(write(traffic::everything(registry)?))
}

fn write(everything: Everything) -> String {
    let mut families = registry::Registry::with_prefix("linkspan");
    families.register_collector(Box::new(Counted(everything)));
    let mut text = String::new();
    text::encode(&mut text, &families).expect("a string takes what is written to it");
    text
}

#[derive(Debug)]
struct Counted(Everything);

/// The names and values of labels.
type Labels = Vec<(&'static str, String)>;

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Everything {
            links,
            ports,
            drops,
            networks,
            endpoints,
        } = &self.0;
        let links: Vec<_> = links
            .iter()
            .map(|(status, traffic)| (link_labels(status), *traffic))
            .collect();
        traffic_families(&mut encoder, "link", "over the link", &links)?;
        let ports: Vec<_> = ports
            .iter()
            .map(|status| (port_labels(status), status.traffic))
            .collect();
        traffic_families(&mut encoder, "port", "through the published port", &ports)?;
        network_families(&mut encoder, networks)?;
        let drops = || {
            let each = drops.iter();
            each.map(|(rule, counter)| (vec![("rule", rule.clone())], *counter))
        };
        counters(
            &mut encoder,
            ("dropped_packets", "Packets that a rule dropped"),
            drops().map(|(labels, counter)| (labels, counter.packets)),
        )?;
        counters(
            &mut encoder,
            ("dropped_bytes", "Bytes of the packets that a rule dropped"),
            drops().map(|(labels, counter)| (labels, counter.bytes)),
        )?;
        gauges(
            &mut encoder,
            ("endpoints", "Endpoints that are attached"),
            std::iter::once((Vec::new(), *endpoints)),
        )
    }
}

fn link_labels(status: &crate::network::registry::LinkStatus) -> Labels {
    vec![
        ("network", status.network.to_string()),
        ("consumer", status.consumer_name.to_string()),
        ("alias", status.link.alias.clone()),
        ("source", status.link.source_name.to_string()),
    ]
}

fn port_labels(status: &PortStatus) -> Labels {
    let first = status.run.first;
    let host_port = if first.host_port == status.run.last {
        first.host_port.to_string()
    } else {
        format!("{}-{}", first.host_port, status.run.last)
    };
    vec![
        ("endpoint", status.endpoint.name.to_string()),
        ("network", status.endpoint.network.to_string()),
        ("protocol", first.port.protocol.name().to_owned()),
        ("host_ip", first.host_ip.to_string()),
        ("host_port", host_port),
        ("container_port", first.port.number.to_string()),
    ]
}

/// The four families that links and ports have.
fn traffic_families(
    encoder: &mut DescriptorEncoder<'_>,
    what: &str,
    whence: &str,
    all: &[(Labels, Traffic)],
) -> fmt::Result {
    let each = |value: fn(&Traffic) -> u64| {
        all.iter()
            .map(move |(labels, traffic)| (labels.clone(), value(traffic)))
    };
    counters(
        encoder,
        (
            &format!("{what}_packets"),
            &format!("Packets that passed {whence}, both ways"),
        ),
        each(|traffic| traffic.passed.packets),
    )?;
    counters(
        encoder,
        (
            &format!("{what}_bytes"),
            &format!("Bytes that passed {whence}, both ways"),
        ),
        each(|traffic| traffic.passed.bytes),
    )?;
    counters(
        encoder,
        (
            &format!("{what}_connections"),
            &format!("Connections that were opened {whence}"),
        ),
        each(|traffic| traffic.connections),
    )?;
    gauges(
        encoder,
        (
            &format!("{what}_open_connections"),
            &format!("Connections that are open {whence}"),
        ),
        each(|traffic| traffic.open_connections),
    )
}

fn network_families(
    encoder: &mut DescriptorEncoder<'_>,
    networks: &[(String, u64, NetworkTraffic)],
) -> fmt::Result {
    let directions = |value: fn(&Counter) -> u64| {
        networks.iter().flat_map(move |(name, _, traffic)| {
            let NetworkTraffic { sent, received } = traffic;
            [("sent", sent), ("received", received)].map(|(direction, counter)| {
                let labels = vec![
                    ("network", name.clone()),
                    ("direction", direction.to_owned()),
                ];
                (labels, value(counter))
            })
        })
    };
    gauges(
        encoder,
        (
            "network_endpoints",
            "Endpoints that are attached to the network",
        ),
        networks
            .iter()
            .map(|(name, count, _)| (vec![("network", name.clone())], *count)),
    )?;
    counters(
        encoder,
        (
            "network_packets",
            "Packets that members of the network sent or received",
        ),
        directions(|counter| counter.packets),
    )?;
    counters(
        encoder,
        (
            "network_bytes",
            "Bytes that members of the network sent or received",
        ),
        directions(|counter| counter.bytes),
    )
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    described: (&str, &str),
    values: impl Iterator<Item = (Labels, u64)>,
) -> fmt::Result {
    family(
        encoder,
        described,
        values.map(|(labels, value)| (labels, ConstCounter::new(value))),
    )
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    described: (&str, &str),
    values: impl Iterator<Item = (Labels, u64)>,
) -> fmt::Result {
    family(
        encoder,
        described,
        values.map(|(labels, value)| (labels, ConstGauge::new(value))),
    )
}

/// Writes a family of a name and a help text; one without values is left out.
fn family<M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    values: impl Iterator<Item = (Labels, M)>,
) -> fmt::Result {
    let mut values = values.peekable();
    let Some((_, first)) = values.peek() else {
        return Ok(());
    };
    let kind = first.metric_type();
    let (name, unit) = match name.strip_suffix("_bytes") {
        Some(bare) => (bare, Some(&registry::Unit::Bytes)),
        None => (name, None),
    };
    let mut family = encoder.encode_descriptor(name, help, unit, kind)?;
    for (labels, metric) in values {
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
