//! Programs onto hooks: links that outlive the agent, replaced in one step.
//!
//! TCX links where the kernel has them (6.6), clsact filters with a fixed priority and handle before. A fresh agent finds a link by its pin, a filter by
//! its handle. Nothing is ever detached to be attached again: links and filters are updated in place, those of an agent of another version too. We never
//! delete a qdisc, filter or program that is not ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use aya::{Btf, Ebpf, EbpfLoader};

use aya_obj::generated::bpf_attach_type;

use super::error::OpenError;
use super::pins::Pins;
use super::sys;

/// Priority and handle of our clsact filters.
const FILTER: NlOptions = NlOptions {
    priority: 1,
    handle: TcHandle::new(0x5043, 1),
    classid: None,
};

/// Maps that are not pinned: cache and working memory of the loaded programs, whose records are no contract.
const UNPINNED: [&str; 2] = ["pc_recent", "pc_scratch"];

/// Programs of the pods' cgroup.
const SOCKET_HOOKS: &[(&str, bpf_attach_type)] = &[
    ("pc_connect4", bpf_attach_type::BPF_CGROUP_INET4_CONNECT),
    ("pc_connect6", bpf_attach_type::BPF_CGROUP_INET6_CONNECT),
    ("pc_sendmsg4", bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG),
    ("pc_sendmsg6", bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG),
    ("pc_setsockopt", bpf_attach_type::BPF_CGROUP_SETSOCKOPT),
];

/// What an interface is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A pod is behind it.
    Pod,
    /// It leads to the network.
    Uplink,
    /// It does, without a link-layer header.
    UplinkWithoutHeader,
}

impl Role {
    fn hooks(self) -> &'static [(&'static str, TcAttachType)] {
        match self {
            Self::Pod => &[
                ("pc_from_pod", TcAttachType::Ingress),
                ("pc_to_pod", TcAttachType::Egress),
            ],
            Self::Uplink => &[("pc_uplink", TcAttachType::Egress)],
            Self::UplinkWithoutHeader => &[("pc_uplink_l3", TcAttachType::Egress)],
        }
    }
}

/// The loaded programs and where they are attached.
pub struct Hooks {
    ebpf: Ebpf,
    pins: Pins,
    tcx: bool,
    interfaces: BTreeMap<u32, Role>,
    /// Cgroup hooks that are on.
    pub cgroups: BTreeSet<&'static str>,
}

impl Hooks {
    /// Loads the object over the pinned maps, making those that are not there. Nothing is attached yet.
    pub fn load(object: &[u8], pins: &Pins) -> Result<Self> {
        let btf = Btf::from_sys_fs().ok();
        let mut loader = EbpfLoader::new();
        loader
            .btf(btf.as_ref())
            .default_map_pin_directory(pins.map(""));
        let names: Vec<String> = map_names(object)?;
        for name in &names {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = loader.load(object).context("loading the BPF object")?;
        for (name, program) in ebpf.programs_mut() {
            let loaded = match program {
                Program::SchedClassifier(program) => program.load(),
                Program::CgroupSkb(program) => program.load(),
                Program::CgroupSockAddr(program) => program.load(),
                Program::CgroupSockopt(program) => program.load(),
                _ => Err(ProgramError::UnexpectedProgramType),
            };
            loaded.map_err(|error| refusal(name, error))?;
        }
        Ok(Self {
            ebpf,
            pins: pins.clone(),
            tcx: KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(6, 6, 0)),
            interfaces: BTreeMap::new(),
            cgroups: BTreeSet::new(),
        })
    }

    /// Pins the programs, so that they can be looked at and run without the agent. Replaces older pins.
    pub fn pin_programs(&mut self) -> Result<()> {
        for (name, program) in self.ebpf.programs_mut() {
            let path = self.pins.program(name);
            let _ = std::fs::remove_file(&path);
            program
                .pin(&path)
                .with_context(|| format!("pinning {}", path.display()))?;
        }
        Ok(())
    }

    /// A program by name, for running it without a hook.
    pub fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        self.ebpf
            .program_mut(name)
            .with_context(|| format!("no program {name}"))?
            .try_into()
            .with_context(|| format!("{name} is no classifier"))
    }

    /// The events' ring.
    pub fn take_events(&mut self) -> Result<aya::maps::RingBuf<aya::maps::MapData>> {
        self.ebpf
            .take_map("pc_events")
            .context("no map pc_events")?
            .try_into()
            .context("pc_events is no ring buffer")
    }

    /// Whether TCX links are used; else clsact filters.
    #[must_use]
    pub fn uses_tcx(&self) -> bool {
        self.tcx
    }

    /// Interfaces with programs.
    #[must_use]
    pub fn attached(&self) -> &BTreeMap<u32, Role> {
        &self.interfaces
    }

    /// Ids of our programs, as they run now.
    #[must_use]
    pub fn programs(&self) -> BTreeSet<u32> {
        self.ebpf
            .programs()
            .filter_map(|(_, program)| Some(program.info().ok()?.id()))
            .collect()
    }

    /// Ids of the programs on an interface's TCX hook, in the order in which they run; none where clsact is used.
    pub fn order(&self, ifindex: u32, egress: bool) -> io::Result<Vec<u32>> {
        if !self.tcx {
            return Ok(Vec::new());
        }
        let hook = if egress {
            bpf_attach_type::BPF_TCX_EGRESS
        } else {
            bpf_attach_type::BPF_TCX_INGRESS
        };
        sys::tcx(ifindex, hook)
    }

    /// Attaches what an interface needs: adopts and updates what is pinned, replaces a link whose interface is gone.
    pub fn attach(&mut self, ifindex: u32, name: &str, role: Role) -> Result<()> {
        if self.interfaces.get(&ifindex) == Some(&role) {
            return Ok(());
        }
        // A role that changed: the new program first, then the old one's link.
        for (program, direction) in role.hooks() {
            self.attach_one(ifindex, name, program, *direction)
                .with_context(|| format!("attaching {program} to {name}"))?;
        }
        if let Some(old) = self.interfaces.insert(ifindex, role) {
            for (program, direction) in old
                .hooks()
                .iter()
                .filter(|hook| !role.hooks().contains(hook))
            {
                self.detach_one(ifindex, name, program, *direction);
            }
        }
        Ok(())
    }

    fn attach_one(
        &mut self,
        ifindex: u32,
        name: &str,
        program: &str,
        direction: TcAttachType,
    ) -> Result<()> {
        if !self.tcx {
            return self.attach_filter(name, program, direction);
        }
        let link_name = link_name(ifindex, program);
        self.pins.inherit(&link_name)?;
        let pin = self.pins.link(&link_name);
        let classifier = self.classifier(program)?;
        if let Ok(pinned) = PinnedLink::from_pin(&pin) {
            let link: SchedClassifierLink = FdLink::from(pinned)
                .try_into()
                .context("reading the pinned link")?;
            match classifier.attach_to_link(link) {
                Ok(id) => {
                    // The pin holds the link; our own handle on it may go.
                    drop(classifier.take_link(id).context("taking the link")?);
                    return Ok(());
                }
                // ENOLINK: its interface is gone, and another has its index now.
                Err(error) => {
                    tracing::debug!(%name, %program, %error, "Replacing a dead link");
                    std::fs::remove_file(&pin).context("removing a dead link")?;
                }
            }
        }
        let id = classifier
            .attach_with_options(
                name,
                direction,
                TcAttachOptions::TcxOrder(LinkOrder::first()),
            )
            .context("creating the link")?;
        let link: FdLink = classifier
            .take_link(id)
            .context("taking the link")?
            .try_into()
            .context("the link has no descriptor")?;
        link.pin(&pin)
            .with_context(|| format!("pinning {}", pin.display()))?;
        Ok(())
    }

    /// Replaces our filter where it stands, else adds it.
    fn attach_filter(&mut self, name: &str, program: &str, direction: TcAttachType) -> Result<()> {
        match qdisc_add_clsact(name) {
            Ok(()) => {}
            // The interface has one already: ours of another hook, or another tool's.
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(error).context("adding the clsact qdisc"),
        }
        let classifier = self.classifier(program)?;
        let ours =
            SchedClassifierLink::attached(name, direction, FILTER.priority, FILTER.handle, None)?;
        let id = match classifier.attach_to_link(ours) {
            Ok(id) => id,
            Err(_) => classifier
                .attach_with_options(name, direction, TcAttachOptions::Netlink(FILTER))
                .context("adding the filter")?,
        };
        // The filter outlives this process because nobody deletes it.
        std::mem::forget(classifier.take_link(id).context("taking the filter")?);
        Ok(())
    }

    fn detach_one(&mut self, ifindex: u32, name: &str, program: &str, direction: TcAttachType) {
        let _ = std::fs::remove_file(self.pins.link(&link_name(ifindex, program)));
        if !self.tcx {
            remove_filter(name, direction);
        }
    }

    /// Forgets an interface that is gone.
    pub fn forget(&mut self, ifindex: u32) {
        if let Some(role) = self.interfaces.remove(&ifindex) {
            for (program, _) in role.hooks() {
                let _ = std::fs::remove_file(self.pins.link(&link_name(ifindex, program)));
            }
        }
    }

    /// Removes pinned links of interfaces that no longer exist: an earlier agent's.
    pub fn forget_dead(&mut self, alive: impl Fn(u32) -> bool) {
        for link in self.pins.links() {
            let ifindex = link
                .split_once('_')
                .and_then(|(index, _)| index.parse().ok());
            if ifindex.is_some_and(|ifindex| !alive(ifindex)) {
                let _ = std::fs::remove_file(self.pins.link(&link));
            }
        }
    }

    /// Attaches the socket hooks to the pods' cgroup.
    pub fn attach_pods_cgroup(&mut self, cgroup: &Path) -> Result<()> {
        for (program, hook) in SOCKET_HOOKS {
            self.attach_cgroup(cgroup, program, *hook)?;
            self.cgroups.insert(program);
        }
        Ok(())
    }

    /// Attaches the host's delivery check to the host cgroup.
    pub fn attach_host_cgroup(&mut self, cgroup: &Path) -> Result<()> {
        self.attach_cgroup(
            cgroup,
            "pc_to_host",
            bpf_attach_type::BPF_CGROUP_INET_INGRESS,
        )?;
        self.cgroups.insert("pc_to_host");
        Ok(())
    }

    /// Updates the link that is pinned for this very cgroup, else makes one. Links to other cgroups go when the new one stands: for a moment both
    /// check, and never none.
    fn attach_cgroup(&mut self, cgroup: &Path, name: &str, hook: bpf_attach_type) -> Result<()> {
        let target = File::open(cgroup).context("opening the cgroup")?;
        let id = target.metadata().context("reading the cgroup's id")?.ino();
        let program = self
            .ebpf
            .program(name)
            .with_context(|| format!("no program {name}"))?
            .fd()?;
        let hook_name = name.trim_start_matches("pc_");
        let link_name = format!("cgroup_{id}_{hook_name}");
        self.pins.inherit(&link_name)?;
        let pin = self.pins.link(&link_name);
        let updated = sys::pinned(&pin).and_then(|link| sys::update(&link, program.as_fd()));
        if updated.is_err() {
            let link = sys::cgroup_link(program.as_fd(), target.as_fd(), hook)
                .with_context(|| format!("attaching {name} to {}", cgroup.display()))?;
            let _ = std::fs::remove_file(&pin);
            sys::pin(&link, &pin).with_context(|| format!("pinning {}", pin.display()))?;
        }
        for other in self.pins.links() {
            if other != link_name
                && other.starts_with("cgroup_")
                && other.ends_with(&format!("_{hook_name}"))
            {
                std::fs::remove_file(self.pins.link(&other))
                    .with_context(|| format!("removing the link {other}"))?;
            }
        }
        Ok(())
    }
}

/// Removes our clsact filters from an interface, and nothing else.
pub fn remove_filters(name: &str) {
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        remove_filter(name, direction);
    }
}

fn remove_filter(name: &str, direction: TcAttachType) {
    if let Ok(link) =
        SchedClassifierLink::attached(name, direction, FILTER.priority, FILTER.handle, None)
    {
        use aya::programs::links::Link as _;
        let _ = link.detach();
    }
}

fn link_name(ifindex: u32, program: &str) -> String {
    format!("{ifindex}_{}", program.trim_start_matches("pc_"))
}

/// Names of the maps in the object.
fn map_names(object: &[u8]) -> Result<Vec<String>> {
    let object = aya_obj::Object::parse(object).context("reading the BPF object")?;
    Ok(object
        .maps
        .keys()
        .filter(|name| name.starts_with("pc_") && !UNPINNED.contains(&name.as_str()))
        .cloned()
        .collect())
}

/// A refused program with the verifier's last lines. A refusal without a log is one of privilege: the verifier was never asked.
fn refusal(name: &str, error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return anyhow::Error::new(error).context(format!("loading program {name}"));
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().collect();
    let log = lines[lines.len().saturating_sub(20)..].join("\n");
    if log.trim().is_empty() && io_error.raw_os_error() == Some(libc::EPERM) {
        return OpenError::NotPermitted {
            lacks: "CAP_BPF or CAP_NET_ADMIN",
            source: Some(io_error),
        }
        .into();
    }
    tracing::error!(program = name, %log, "The kernel refuses a program");
    OpenError::Refused {
        program: name.to_owned(),
        log,
        source: io_error,
    }
    .into()
}
