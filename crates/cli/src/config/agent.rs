//! The settings of the agent.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use walden_engine::agent::UNHEALTHY_AFTER_DEFAULT;

use super::values::{Size, Span};

/// How long an agent that was started on demand stays without work.
const IDLE: Duration = Duration::from_mins(1);
/// Memory for segments in flight, in bytes.
const MEMORY: u64 = 40 << 20;
/// Least memory: one segment of the largest usual size is read in pieces of a quarter of a MiB, a few at a time.
const MEMORY_MIN: u64 = 4 << 20;
/// Segments on their way at once.
const IN_FLIGHT: u32 = 8;
const IN_FLIGHT_MAX: u32 = 64;
/// Disk for segments fetched ahead of recovery, in bytes.
const PREFETCH: u64 = 256 << 20;
/// Least rate in bytes per second: below it a segment of 16 MiB takes minutes, and hooks give up.
const MAX_RATE_MIN: u64 = 100_000;

/// Settings of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AgentConfig {
    /// Whether hooks may start one, or ask one at all.
    pub(crate) start: AgentStart,
    /// How long one that was started on demand stays without a call and without work.
    pub(crate) idle: Span,
    /// Memory for segments in flight.
    pub(crate) memory: Memory,
    /// Segments on their way at once, 1 to 64.
    pub(crate) in_flight: InFlight,
    /// Most bytes per second sent to and received from the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_rate: Option<MaxRate>,
    /// Where metrics are served, as address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<MetricsAddress>,
    /// Archiving that stands still for this long is told as not healthy.
    pub(crate) unhealthy_after: Span,
    /// Disk for segments fetched ahead of recovery; nothing is fetched ahead with 0.
    pub(crate) prefetch: Size,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            start: AgentStart::Auto,
            idle: Span(IDLE),
            memory: Memory(MEMORY),
            in_flight: InFlight::default(),
            max_rate: None,
            metrics: None,
            unhealthy_after: Span(UNHEALTHY_AFTER_DEFAULT),
            prefetch: Size(PREFETCH),
        }
    }
}

/// What hooks do about the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AgentStart {
    /// Ask it, and start one when work waits.
    Auto,
    /// Ask it when one runs, and start none.
    Never,
    /// Do everything themselves.
    Off,
}

impl AgentStart {
    fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Never => "never",
            Self::Off => "off",
        }
    }
}

impl Serialize for AgentStart {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for AgentStart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        [Self::Auto, Self::Never, Self::Off]
            .into_iter()
            .find(|start| start.as_str() == text)
            .ok_or_else(|| serde::de::Error::custom("it is auto, never or off"))
    }
}

/// Memory for segments in flight, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "Size")]
pub(crate) struct Memory(u64);

impl Memory {
    /// In bytes.
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

impl From<Memory> for Size {
    fn from(memory: Memory) -> Self {
        Self(memory.0)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Size::deserialize(deserializer)?.0;
        if bytes < MEMORY_MIN {
            return Err(serde::de::Error::custom("the agent needs at least 4MiB"));
        }
        Ok(Self(bytes))
    }
}

/// Segments on their way at once, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct InFlight(pub(crate) NonZeroU32);

impl Default for InFlight {
    fn default() -> Self {
        Self(NonZeroU32::new(IN_FLIGHT).unwrap_or(NonZeroU32::MIN))
    }
}

impl<'de> Deserialize<'de> for InFlight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        u32::try_from(number)
            .ok()
            .filter(|number| *number <= IN_FLIGHT_MAX)
            .and_then(NonZeroU32::new)
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("segments in flight are 1 to 64"))
    }
}

/// Most bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "Size")]
pub(crate) struct MaxRate(u64);

impl MaxRate {
    /// In bytes per second.
    pub(crate) fn bytes_per_second(self) -> u64 {
        self.0
    }
}

impl From<MaxRate> for Size {
    fn from(rate: MaxRate) -> Self {
        Self(rate.0)
    }
}

impl<'de> Deserialize<'de> for MaxRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let text = text.strip_suffix("/s").unwrap_or(&text);
        let bytes = text
            .parse::<Size>()
            .map_err(|_| serde::de::Error::custom("a rate is bytes per second, such as 50MB or 64MiB"))?;
        if bytes.0 < MAX_RATE_MIN {
            return Err(serde::de::Error::custom("a rate is at least 100kB per second"));
        }
        Ok(Self(bytes.0))
    }
}

/// Where metrics are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct MetricsAddress(pub(crate) SocketAddr);

impl<'de> Deserialize<'de> for MetricsAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| {
            serde::de::Error::custom("it is an address with a port, such as 127.0.0.1:9712 or [::]:9712")
        })
    }
}
