//! Probes put to the pinned programs by `BPF_PROG_TEST_RUN`, on stand-in devices: no packet travels, the programs and maps are the real ones.
//!
//! Each probe passes the hooks that its packet would: the source pod's `pc_from_pod`, then the destination pod's `pc_to_pod` or the uplink's
//! `pc_uplink`, with the interfaces that the kernel would tell them. The stage that `pc_from_pod` leaves in a packet does not survive between two test
//! runs, so the second hook looks the connection up that the first one made: the same verdict by the longer way.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use portcullis_common::abi::{direction, drop_index};
use portcullis_common::reason;
use portcullis_lab::packet::Opening;
use portcullis_lab::{Flight, ProbeResult, Site, TestBench, Verdict};

use crate::dataplane::kernel::Tables;
use crate::dataplane::pins::Pins;

/// `TC_ACT_UNSPEC`: the packet goes on. Anything else stops it: a drop, or the guard's answer.
const NEXT: u32 = u32::MAX;
/// Size and fields of `struct __sk_buff` as `BPF_PROG_TEST_RUN` takes it.
const CONTEXT: usize = 192;
const INGRESS_IFINDEX_AT: usize = 36;
const IFINDEX_AT: usize = 40;

/// Puts every flight to the programs pinned below `bpffs`, in order.
pub fn send(bench: &TestBench, bpffs: &Path, flights: &[Flight]) -> Result<Vec<ProbeResult>> {
    // The kernel looks devices up in the caller's network namespace.
    bench.node().run(|| {
        let mut runner = Runner::open(bench, bpffs)?;
        flights
            .iter()
            .map(|flight| {
                runner
                    .answer(flight)
                    .with_context(|| format!("probe {}", flight.id))
            })
            .collect()
    })
}

struct Runner<'a> {
    bench: &'a TestBench,
    from_pod: SchedClassifier,
    to_pod: SchedClassifier,
    uplink: SchedClassifier,
    tables: Tables,
    next_port: u16,
}

impl<'a> Runner<'a> {
    fn open(bench: &'a TestBench, bpffs: &Path) -> Result<Self> {
        let pins = Pins::new(bpffs);
        let program = |name: &str| {
            SchedClassifier::from_pin(pins.program(name)).with_context(|| format!("opening {name}"))
        };
        Ok(Self {
            bench,
            from_pod: program("pc_from_pod")?,
            to_pod: program("pc_to_pod")?,
            uplink: program("pc_uplink")?,
            tables: Tables::open(&pins)?,
            next_port: 32_768,
        })
    }

    fn answer(&mut self, flight: &Flight) -> Result<ProbeResult> {
        let (verdict, reason) = self.judge(flight)?;
        Ok(ProbeResult {
            id: flight.id.clone(),
            verdict,
            reason,
        })
    }

    fn judge(&mut self, flight: &Flight) -> Result<(Verdict, String)> {
        let here = |site: &Site| matches!(site, Site::Pod(_) | Site::Node);
        if !here(&flight.from) && !here(&flight.to) {
            return Ok(Self::undecided_here(flight, "nothing of this node"));
        }
        if flight.from == flight.to && flight.src == flight.dst {
            return Ok((Verdict::Allow, reason::name(reason::SELF).to_owned()));
        }
        let frame = self.frame(flight)?;
        let source = self.device(&flight.from)?;
        if let Some(ifindex) = source
            && let Some(reason) = self.run(Hook::FromPod, &frame, ifindex, ifindex)?
        {
            return Ok((Verdict::Deny, reason));
        }
        // The interface on which the node received the packet: the pod's, none for its own, else the uplink.
        let ingress = match &flight.from {
            Site::Pod(_) => source.unwrap_or(0),
            Site::Node => 0,
            Site::Outside | Site::Elsewhere(_) => self.bench.uplink_ifindex(),
        };
        let refused = match (&flight.to, self.device(&flight.to)?) {
            (Site::Pod(_), Some(ifindex)) => self.run(Hook::ToPod, &frame, ifindex, ingress)?,
            (Site::Outside | Site::Elsewhere(_), _) if source.is_some() => {
                self.run(Hook::Uplink, &frame, self.bench.uplink_ifindex(), ingress)?
            }
            _ => None,
        };
        if let Some(reason) = refused {
            return Ok((Verdict::Deny, reason));
        }
        Ok(Self::undecided_here(flight, "passed"))
    }

    /// What no hook of this node denies.
    fn undecided_here(flight: &Flight, why: &str) -> (Verdict, String) {
        let elsewhere = |site: &Site| matches!(site, Site::Elsewhere(_));
        if elsewhere(&flight.from) || elsewhere(&flight.to) {
            return (Verdict::Skipped, "another node decides too".to_owned());
        }
        (Verdict::Allow, why.to_owned())
    }

    fn device(&self, site: &Site) -> Result<Option<u32>> {
        let Site::Pod(key) = site else {
            return Ok(None);
        };
        self.bench
            .ifindex_of(key)
            .with_context(|| format!("pod {key} has no place in the lab"))
            .map(Some)
    }

    fn frame(&mut self, flight: &Flight) -> Result<Vec<u8>> {
        let src_port = flight.src_port.unwrap_or_else(|| {
            self.next_port = if self.next_port >= 60_999 {
                32_768
            } else {
                self.next_port + 1
            };
            self.next_port
        });
        let echo = if flight.dst.is_ipv4() {
            (8, 0)
        } else {
            (128, 0)
        };
        let opening = Opening {
            src: flight.src,
            dst: flight.dst,
            protocol: flight.protocol,
            src_port,
            dst_port: flight.dst_port,
            icmp: flight.icmp.unwrap_or(echo),
            marker: u32::from(src_port),
        };
        opening.to_frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
    }

    /// Runs one hook; the reason if it drops.
    fn run(
        &mut self,
        hook: Hook,
        frame: &[u8],
        ifindex: u32,
        ingress: u32,
    ) -> Result<Option<String>> {
        let mut context = [0_u8; CONTEXT];
        context[INGRESS_IFINDEX_AT..INGRESS_IFINDEX_AT + 4].copy_from_slice(&ingress.to_ne_bytes());
        context[IFINDEX_AT..IFINDEX_AT + 4].copy_from_slice(&ifindex.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let before = self.counters(ifindex, ingress);
        let program = match hook {
            Hook::FromPod => &self.from_pod,
            Hook::ToPod => &self.to_pod,
            Hook::Uplink => &self.uplink,
        };
        let result = program.test_run(options).context("running a program")?;
        if result.return_value == NEXT {
            return Ok(None);
        }
        let after = self.counters(ifindex, ingress);
        let changed = before
            .iter()
            .zip(&after)
            .position(|(before, after)| before != after);
        Ok(Some(
            changed
                .map_or("dropped", |index| {
                    reason::name((index % reason::COUNT) as u8)
                })
                .to_owned(),
        ))
    }

    /// Drop counters of the endpoints behind two interfaces, and of none.
    fn counters(&self, ifindex: u32, ingress: u32) -> Vec<u64> {
        let slots = [
            0,
            self.tables.slot_of(ifindex),
            self.tables.slot_of(ingress),
        ];
        let mut counters = Vec::new();
        for slot in slots {
            for direction in [direction::INGRESS, direction::EGRESS] {
                counters.extend(
                    (0..reason::COUNT as u8)
                        .map(|reason| self.tables.drops(drop_index(slot, direction, reason))),
                );
            }
        }
        counters
    }
}

#[derive(Clone, Copy)]
enum Hook {
    FromPod,
    ToPod,
    Uplink,
}
