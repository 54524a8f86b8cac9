//! What Cyclonus says, line by line: its tables of what it expected and what it found, and its log.
//!
//! ```text
//! test #1: NAME / tags        the cases that it is going to run
//! starting test case #1
//!   log                       probes that called nobody, and why others did not get through
//!   step 1 ... 17 wrong       a table of expected signs, a table of found ones; one table if they are the same
//! finished policy #1
//! ```
//! To Cyclonus a probe that could not run is a blocked one. Not so here: whoever did not get through has to
//! have said that it waited in vain, else the case counts as broken. What cannot be read is broken too.

use std::fmt;
use std::mem;

/// A probe got through.
pub(crate) const OPEN: char = '.';
/// A probe did not.
pub(crate) const SHUT: char = 'X';

/// How Cyclonus tells its cases apart: names alone repeat themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) words: String,
    pub(crate) tags: Vec<String>,
    /// How many of these words and tags came before.
    pub(crate) nth: usize,
}

/// A case that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) name: Name,
    pub(crate) probes: usize,
    /// Where it found what it did not expect.
    pub(crate) surprises: Vec<Surprise>,
    /// Why it is no judgement at all.
    pub(crate) broken: Vec<String>,
    /// Cyclonus lost the address of some pod's Service and let probes call nobody: ":80".
    pub(crate) aimless: bool,
}

impl Case {
    /// One of which there is no result.
    pub(crate) fn unfinished(name: Name) -> Self {
        Self {
            name,
            broken: vec!["it did not run to its end".to_owned()],
            ..Self::default()
        }
    }
}

/// A probe that ended otherwise than Cyclonus expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Surprise {
    pub(crate) step: usize,
    /// Pods as NAMESPACE/NAME.
    pub(crate) from: String,
    pub(crate) to: String,
    /// Protocol and port.
    pub(crate) port: String,
    pub(crate) expected: char,
    pub(crate) found: char,
}

impl fmt::Display for Surprise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            step,
            from,
            to,
            port,
            expected,
            found,
        } = self;
        write!(
            f,
            "step {step}, {from} to {to} {port} is `{found}` and not `{expected}`"
        )
    }
}

/// Takes the lines of a run.
#[derive(Default)]
pub(crate) struct Reader {
    pub(crate) version: String,
    listed: Vec<Name>,
    /// The case at work and its step.
    case: Option<Case>,
    step: usize,
    /// How many steps have shown what they found.
    shown: usize,
    /// The one port that the step is about.
    port: String,
    /// How many cells the step says are wrong; none before it does.
    wrong: Option<usize>,
    table: Table,
    /// The rows of the table that is being read.
    rows: Vec<String>,
    expected: Vec<Cell>,
}

/// Which table comes next.
#[derive(Default, PartialEq, Eq)]
enum Table {
    #[default]
    Other,
    Expected,
    Found,
}

/// A cell of a table: probes from one pod to another.
#[derive(PartialEq, Eq)]
struct Cell {
    from: String,
    to: String,
    /// Ports and what became of them.
    signs: Vec<(String, char)>,
}

impl Reader {
    /// The cases that are going to run; complete when the first one starts.
    pub(crate) fn listed(&self) -> &[Name] {
        &self.listed
    }

    /// Takes a line; the case, if the line ends it.
    pub(crate) fn line(&mut self, line: &str) -> Option<Case> {
        if let Some(message) = log_message(line) {
            self.message(&message);
        } else if let Some(row) = line.strip_prefix('|') {
            self.rows.push(row.to_owned());
        } else if line.starts_with('+') {
            // A line between rows: a header ends here.
            self.rows.push(String::new());
        } else {
            self.end_table();
            return self.plain(line);
        }
        None
    }

    fn plain(&mut self, line: &str) -> Option<Case> {
        if let Some((_, version)) = line.split_once("\"Version\": ") {
            version
                .trim_matches(['"', ','])
                .clone_into(&mut self.version);
        } else if let Some(rest) = line.strip_prefix("test #") {
            let words = rest.split_once(": ").map_or(rest, |(_, words)| words);
            self.listed.push(Name {
                words: words.to_owned(),
                ..Name::default()
            });
        } else if let Some(tags) = line.strip_prefix(" - tags: ") {
            self.tag(tags);
        } else if let Some(number) = line.strip_prefix("starting test case #") {
            self.start(number);
        } else if let Some(rest) = line.strip_prefix("step ") {
            self.step += 1;
            rest.split_once(" on port ")
                .map_or("", |(_, port)| port.trim_end_matches(':'))
                .clone_into(&mut self.port);
            self.wrong = None;
            self.expected.clear();
            self.table = Table::Other;
        } else if let Some(wrong) = wrong(line) {
            self.wrong = Some(wrong);
            self.table = if wrong == 0 {
                Table::Found
            } else {
                Table::Other
            };
        } else if line == "Expected combined:" {
            self.table = Table::Expected;
        } else if line.starts_with("kube results, try ") {
            self.table = Table::Found;
        } else if line.starts_with("finished policy #") {
            return self.finish();
        } else if line.ends_with(':') {
            self.table = Table::Other;
        }
        None
    }

    fn tag(&mut self, tags: &str) {
        let Some(mut name) = self.listed.pop() else {
            return;
        };
        name.tags = tags.split(", ").map(str::to_owned).collect();
        name.nth = self
            .listed
            .iter()
            .filter(|other| other.words == name.words && other.tags == name.tags)
            .count();
        self.listed.push(name);
    }

    fn start(&mut self, number: &str) {
        let index = number.parse::<usize>().unwrap_or_default();
        let name = index
            .checked_sub(1)
            .and_then(|index| self.listed.get(index));
        self.case = Some(Case {
            name: name.cloned().unwrap_or_default(),
            ..Case::default()
        });
        self.step = 0;
        self.shown = 0;
    }

    /// The case, if it has all that it promised.
    fn finish(&mut self) -> Option<Case> {
        if self.step == 0 || self.shown != self.step {
            let why = format!("{} of {} steps have a result", self.shown, self.step);
            self.complain(why);
        }
        self.case.take()
    }

    fn complain(&mut self, why: impl Into<String>) {
        if let Some(case) = &mut self.case {
            case.broken.push(why.into());
        }
    }

    /// A message of the log.
    fn message(&mut self, message: &str) {
        if message.starts_with("running kube probe on try ") {
            if message != "running kube probe on try 1" {
                self.complain("it tried again");
            }
        } else if message.starts_with("no address in ") {
            if let Some(case) = &mut self.case {
                case.aimless = true;
            }
        } else if let Some(failed) = message.strip_prefix("request to ") {
            let (probe, why) = failed.split_once(" failed: ").unwrap_or((failed, ""));
            if !why.starts_with("exit status 1: TIMEOUT") {
                self.complain(format!("{probe}: {why}"));
            }
        } else if message.starts_with("unable to issue batch request: ") {
            self.complain(message.lines().next().unwrap_or_default());
        }
    }

    fn end_table(&mut self) {
        let rows = mem::take(&mut self.rows);
        let table = mem::take(&mut self.table);
        if rows.is_empty() {
            // A line before its table.
            self.table = table;
            return;
        }
        if table == Table::Other {
            return;
        }
        let Some(cells) = cells(&rows, &self.port) else {
            self.complain(format!("step {}: its table cannot be read", self.step));
            return;
        };
        if table == Table::Expected {
            self.expected = cells;
        } else {
            let expected = mem::take(&mut self.expected);
            self.compare(&expected, cells);
        }
    }

    fn compare(&mut self, expected: &[Cell], found: Vec<Cell>) {
        let wrong = self.wrong.take();
        let step = self.step;
        self.shown += 1;
        let Some(case) = &mut self.case else {
            return;
        };
        case.probes += found.iter().map(|cell| cell.signs.len()).sum::<usize>();
        if wrong == Some(0) {
            return;
        }
        let mut differing = 0;
        for cell in found {
            let asked = expected
                .iter()
                .find(|other| other.from == cell.from && other.to == cell.to);
            let before = case.surprises.len();
            for (index, (port, sign)) in cell.signs.into_iter().enumerate() {
                let expected = asked
                    .and_then(|cell| cell.signs.get(index))
                    .map_or('?', |(_, sign)| *sign);
                if expected != sign {
                    case.surprises.push(Surprise {
                        step,
                        from: cell.from.clone(),
                        to: cell.to.clone(),
                        port,
                        expected,
                        found: sign,
                    });
                }
            }
            differing += usize::from(case.surprises.len() > before);
        }
        if wrong != Some(differing) {
            case.broken.push(format!(
                "step {step}: its tables differ in {differing} cells and not in {}",
                wrong.unwrap_or_default()
            ));
        }
    }
}

/// What a line of the log says, without its quotes.
fn log_message(line: &str) -> Option<String> {
    let rest = line.strip_prefix("time=\"")?;
    let (_, message) = rest.split_once(" msg=")?;
    let message = message.strip_prefix('"').unwrap_or(message);
    let message = message.strip_suffix('"').unwrap_or(message);
    Some(message.replace("\\n", "\n").replace("\\r", ""))
}

/// `Discrepancy found:17 wrong, 0 ignored, 64 correct`.
fn wrong(line: &str) -> Option<usize> {
    let line = line.strip_prefix("Discrepancy found:").unwrap_or(line);
    let (wrong, rest) = line.split_once(" wrong, ")?;
    rest.strip_suffix(" correct")?;
    wrong.parse().ok()
}

/// The cells of a table; none if it is not square or has other than signs in it. The first column holds the
/// ports that each cell has signs for, or nothing where there is only one.
fn cells(rows: &[String], port: &str) -> Option<Vec<Cell>> {
    let mut parts = rows.split(String::is_empty).filter(|part| !part.is_empty());
    let header: Vec<Vec<&str>> = parts.next()?.iter().map(|row| columns(row)).collect();
    let tos: Vec<String> = header
        .first()?
        .iter()
        .skip(1)
        .map(|to| to.to_lowercase())
        .collect();
    let mut ports: Vec<&str> = header
        .iter()
        .filter_map(|row| row.first().copied())
        .collect();
    if ports == [""] {
        ports = vec![port];
    }
    let mut cells = Vec::new();
    for row in parts.flatten() {
        let columns = columns(row);
        let (from, signs) = columns.split_first()?;
        if signs.len() != tos.len() {
            return None;
        }
        for (to, signs) in tos.iter().zip(signs) {
            let signs: Option<Vec<char>> = signs
                .split_whitespace()
                .map(|sign| sign.parse().ok())
                .collect();
            let signs = signs.filter(|signs| signs.len() == ports.len())?;
            cells.push(Cell {
                from: (*from).to_owned(),
                to: to.clone(),
                signs: ports.iter().map(ToString::to_string).zip(signs).collect(),
            });
        }
    }
    (cells.len() == tos.len() * tos.len()).then_some(cells)
}

fn columns(row: &str) -> Vec<&str> {
    row.trim_end_matches('|')
        .split('|')
        .map(str::trim)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of one case; the tables have the signs that are given.
    fn read(log: &[&str], results: &str) -> Case {
        let text = format!(
            "{}\n{}\n{}\nstep 1 on all available ports/protocols:\nPolicy explanation:\n| TYPE | TARGET |\n\n{results}\n",
            "Cyclonus version: \n{\n  \"GitSHA\": \"g\",\n  \"Version\": \"v0.5.6\"\n}",
            "test #1: other\n - tags: a, b\ntest #2: ports\n - tags: egress\ntest #3: ports\n - tags: egress\n",
            format_args!("starting test case #3\n{}", log.join("\n")),
        );
        let mut reader = Reader::default();
        for line in text.lines() {
            assert_eq!(reader.line(line), None, "{line}");
        }
        let case = reader.line("finished policy #3").expect("the case ends");
        assert_eq!(reader.version, "v0.5.6");
        assert_eq!(reader.listed().len(), 3);
        case
    }

    fn table(xa: &str, xb: &str) -> String {
        format!(
            "+--------+-----+-----+\n| TCP/80 | X/A | X/B |\n| UDP/80 |     |     |\n+--------+-----+-----+\n\
             | x/a    | {xa} |\n+--------+-----+-----+\n| x/b    | {xb} |\n+--------+-----+-----+\n"
        )
    }

    fn wrong(count: usize, expected: &str, found: &str) -> String {
        format!(
            "Discrepancy found:{count} wrong, 0 ignored, 3 correct\nExpected ingress:\n{}\nExpected combined:\n{expected}\n\
             kube results, try 0:\n{found}\n\nActual vs expected (last round):\n+-----+-----+-----+\n|     | X/A | X/B |\n\
             +-----+-----+-----+\n| x/a | X   | .   |\n| x/b | .   | .   |\n+-----+-----+-----+\n",
            table("X X | X X", "X X | X X")
        )
    }

    #[test]
    fn a_case_without_surprises_has_its_probes_counted_and_a_name_with_a_number() {
        let results = format!(
            "0 wrong, 0 ignored, 4 correct\n{}",
            table(". X | . .", ". . | . .")
        );
        let case = read(&[], &results);
        assert_eq!((case.probes, case.surprises.len()), (8, 0));
        assert_eq!((case.name.words.as_str(), case.name.nth), ("ports", 1));
        assert_eq!(case.name.tags, ["egress"]);
        assert!(case.broken.is_empty() && !case.aimless, "{:?}", case.broken);
    }

    #[test]
    fn a_surprise_names_both_pods_and_the_port() {
        let case = read(
            &[],
            &wrong(
                1,
                &table(". X | . .", ". . | . ."),
                &table(". . | . .", ". . | . ."),
            ),
        );
        assert!(case.broken.is_empty(), "{:?}", case.broken);
        let surprise = Surprise {
            step: 1,
            from: "x/a".to_owned(),
            to: "x/a".to_owned(),
            port: "UDP/80".to_owned(),
            expected: SHUT,
            found: OPEN,
        };
        assert_eq!(case.surprises, [surprise]);
    }

    #[test]
    fn a_step_on_one_port_has_a_table_without_ports() {
        let mut reader = Reader::default();
        for line in "test #1: a\n - tags: b\nstarting test case #1\nstep 1 on port serve-81-tcp, protocol TCP:\n\
                     0 wrong, 0 ignored, 4 correct\n+---+---+---+\n|   | X/A | Y/B |\n+---+---+---+\n| x/a | . | X |\n\
                     | y/b | . | . |\n+---+---+---+\n\n"
            .lines()
        {
            assert_eq!(reader.line(line), None);
        }
        let case = reader.line("finished policy #1").expect("the case ends");
        assert_eq!((case.probes, case.broken.len()), (4, 0));
    }

    #[test]
    fn whoever_is_shut_out_has_to_have_waited_in_vain() {
        let results = format!(
            "0 wrong, 0 ignored, 4 correct\n{}",
            table(". X | . .", ". . | . .")
        );
        let log = |message: &str| format!("time=\"t\" level=debug msg=\"{message}\"");
        let key = "request to x/a/cont-80-tcp/x/b/cont-80-udp/UDP/80 failed: ";
        let vain = log(&format!(
            "{key}exit status 1: TIMEOUT: read udp 10.0.0.2:9->10.0.0.1:80: i/o timeout"
        ));
        assert!(read(&[&vain], &results).broken.is_empty());
        // It said something else, it said nothing, it did not run.
        for message in [
            &format!("{key}exit status 1: REFUSED"),
            &format!("{key}exit status 1: "),
            &format!("{key}fork/exec /agnhost: no such file or directory: "),
            r"unable to issue batch request: unable to upgrade connection\nunable to stream",
        ] {
            assert_eq!(read(&[&log(message)], &results).broken.len(), 1);
        }
        assert!(
            read(
                &[&log("no address in x/a/cont-80-tcp/x/b//TCP/80")],
                &results
            )
            .aimless
        );
    }

    #[test]
    fn a_second_try_and_a_step_without_result_are_broken() {
        let results = format!(
            "0 wrong, 0 ignored, 4 correct\n{}",
            table(". . | . .", ". . | . .")
        );
        let again = r#"time="t" level=info msg="running kube probe on try 2""#;
        assert_eq!(read(&[again], &results).broken.len(), 1);
        assert_eq!(read(&[], "no network policies\n").broken.len(), 1);
        let crooked = results.replace("| x/b    | . . | . . |", "| x/b    | . | . . |");
        assert_eq!(read(&[], &crooked).broken.len(), 2);
    }

    #[test]
    fn a_count_that_the_tables_do_not_bear_out_is_broken() {
        let open = table(". . | . .", ". . | . .");
        assert_eq!(
            read(&[], &wrong(2, &table("X . | . .", ". . | . ."), &open))
                .broken
                .len(),
            1
        );
    }
}
