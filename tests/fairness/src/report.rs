//! What is written: one HTML file with everything in it, the plots as SVG files, and tables as CSV and JSON. Formats
//! only: every number comes from the analysis.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;
use vgpu_sched::trace::{self, Entry};
use vgpu_sched::{Engine, Nanos, PolicyKind};

use crate::analysis::{ERROR_WINDOWS, Latency, Measures, WINDOWS, waits, windows};
use crate::campaign::{Done, Outcome, Scale};
use crate::domain::{Domain, time};
use crate::experiment::{Claim, Judged, Runs};
use crate::experiments::scale;
use crate::plot::{self, Axis, Line, Stack};
use crate::run::{Piece, Place, Run};

/// Steps of the plots over time.
const STEP: Nanos = WINDOWS[1];

/// Writes all of it into a folder; the report's file.
///
/// # Errors
///
/// If a file cannot be written or a plot cannot be drawn.
pub fn write(outcome: &Outcome, folder: &Path) -> Result<PathBuf> {
    let plots = folder.join("plots");
    let runs = folder.join("runs");
    for made in [&plots, &runs] {
        fs::create_dir_all(made).with_context(|| format!("making {}", made.display()))?;
    }
    let put = |path: PathBuf, text: &str| {
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    let mut sections = String::new();
    for done in &outcome.done {
        let drawn = draw(done)?;
        for (name, svg) in &drawn {
            put(plots.join(format!("{name}.svg")), svg)?;
        }
        for judged in &done.judged {
            let Run {
                experiment,
                policy,
                place,
                ..
            } = &judged.run;
            let name = format!("{experiment}-{policy}-{place}");
            put(
                runs.join(format!("{name}-windows.csv")),
                &windows_csv(&judged.run),
            )?;
            put(
                runs.join(format!("{name}-domains.csv")),
                &domains_csv(judged),
            )?;
            if *place == Place::Real {
                put(
                    runs.join(format!("{name}-pieces.csv")),
                    &pieces_csv(&judged.run),
                )?;
                put(
                    runs.join(format!("{name}-trace.jsonl")),
                    &trace_lines(&judged.run)?,
                )?;
            }
        }
        sections += &section(done, &drawn);
    }
    if let Some(scale) = &outcome.scale {
        let drawn = draw_scale(scale)?;
        for (name, svg) in &drawn {
            put(plots.join(format!("{name}.svg")), svg)?;
        }
        put(folder.join("scale.csv"), &scale_csv(scale))?;
        sections += &scale_section(scale, &drawn);
    }
    put(folder.join("summary.csv"), &summary_csv(outcome))?;
    put(
        folder.join("summary.json"),
        &serde_json::to_string_pretty(&summary(outcome))?,
    )?;
    let report = folder.join("report.html");
    put(report.clone(), &page(outcome, &sections))?;
    Ok(report)
}

/// All results as one JSON object.
pub fn summary(outcome: &Outcome) -> serde_json::Value {
    let runs = outcome.done.iter().flat_map(|done| {
        let runs = Runs(&done.judged);
        done.judged.iter().map(move |judged| {
            json!({
                "experiment": judged.run.experiment,
                "policy": judged.run.policy,
                "place": judged.run.place,
                "device": judged.run.device,
                "seconds": judged.run.duration as f64 / 1e9,
                "overhead_against_fifo": runs.overhead(judged),
                "measures": judged.measures,
            })
        })
    });
    json!({
        "machine": outcome.machine,
        "claims": outcome.claims().collect::<Vec<_>>(),
        "runs": runs.collect::<Vec<_>>(),
        "scale": outcome.scale,
        "left_out": outcome.left_out,
        "failed": outcome.failed,
        "took_s": outcome.took.as_secs_f64(),
    })
}

// ---- tables

fn field(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.6}"))
}

fn windows_csv(run: &Run) -> String {
    let mut text = "window_ms,start_ms,domain,engine,gpu_ms,part\n".to_owned();
    for length in WINDOWS {
        for engine in [Engine::Compute, Engine::Copy] {
            let windows = windows(&run.domains, engine, length, run.duration);
            for (index, window) in windows.used.iter().enumerate() {
                for (had, &used) in run.domains.iter().zip(window) {
                    if had.domain.engine() == engine {
                        let _ = writeln!(
                            text,
                            "{},{},{},{},{:.3},{:.6}",
                            length / 1_000_000,
                            index as u64 * length / 1_000_000,
                            had.domain.name,
                            engine_name(engine),
                            used as f64 / 1e6,
                            used as f64 / length as f64
                        );
                    }
                }
            }
        }
    }
    text
}

fn engine_name(engine: Engine) -> &'static str {
    match engine {
        Engine::Compute => "compute",
        Engine::Copy => "copy",
    }
}

fn domains_csv(judged: &Judged) -> String {
    let mut text = "domain,pieces,gpu_ms,part,fair_part,slowdown,p50_us,p99_us,p999_us,alone_p50_us,alone_p99_us,\
                    alone_p999_us,bytes,books_kernel_ms,books_copy_ms,books_launches,trace_kernel_ms,trace_launches,\
                    books_waited_ms,turns,program_cpu_ms\n"
        .to_owned();
    for (had, measures) in judged.run.domains.iter().zip(&judged.measures.domains) {
        let latency = |latency: Option<Latency>| {
            let values = latency.map(|l| [l.p50, l.p99, l.p999]);
            let micros = values.map(|values| values.map(|value| format!("{:.1}", value / 1e3)));
            micros.unwrap_or_default().join(",")
        };
        let ms = |nanos: Nanos| format!("{:.3}", nanos as f64 / 1e6);
        let counted = &had.counted;
        let _ = writeln!(
            text,
            "{},{},{},{:.6},{:.6},{},{},{},{},{},{},{},{},{},{},{},{}",
            measures.name,
            measures.pieces,
            ms(measures.used_ns),
            measures.part,
            measures.fair,
            field(measures.slowdown),
            latency(Some(measures.latency)),
            latency(measures.alone),
            had.bytes,
            ms(counted.kernels_ns),
            ms(counted.copies_ns),
            counted.launches,
            ms(counted.traced_ns),
            counted.traced_launches,
            ms(counted.waited_ns),
            counted.turns,
            ms(had.cpu_ns)
        );
    }
    text
}

fn pieces_csv(run: &Run) -> String {
    let mut text = "domain,submitted_ns,start_ns,end_ns,done_ns\n".to_owned();
    for had in &run.domains {
        for piece in &had.pieces {
            let _ = writeln!(
                text,
                "{},{},{},{},{}",
                had.domain.name, piece.submitted, piece.start, piece.end, piece.done
            );
        }
    }
    text
}

fn trace_lines(run: &Run) -> Result<String> {
    let mut lines = Vec::new();
    for work in &run.trace {
        trace::write(&mut lines, &Entry::Work(work.clone()))?;
    }
    Ok(String::from_utf8(lines)?)
}

fn summary_csv(outcome: &Outcome) -> String {
    let mut text = "experiment,policy,place,seconds,busy,lost,held,overhead_against_fifo,jain,min_max,min_max_10s,share_error,\
                    error_100ms,error_500ms,error_1s,worst_kernels_1s,worst_lag_1s,stp,antt,accounting_error\n"
        .to_owned();
    for done in &outcome.done {
        for judged in &done.judged {
            let m = &judged.measures;
            let values = [
                Some(m.busy),
                Some(m.lost),
                m.held,
                Runs(&done.judged).overhead(judged),
                m.jain,
                m.min_max,
                m.min_max_10s,
                m.share_error,
                m.errors[0],
                m.errors[1],
                m.errors[2],
                m.worst_kernels,
                m.worst_lag,
                m.stp,
                m.antt,
                m.accounting_error,
            ];
            let _ = writeln!(
                text,
                "{},{},{},{},{}",
                judged.run.experiment,
                judged.run.policy,
                judged.run.place,
                judged.run.duration as f64 / 1e9,
                values.map(field).join(",")
            );
        }
    }
    text
}

fn scale_csv(scale: &Scale) -> String {
    let mut text =
        "policy,domains,devices,simulated_s,took_s,kernels,decisions,min_max,min_max_worst,busy\n"
            .to_owned();
    for run in &scale.simulated {
        let _ = writeln!(
            text,
            "{},{},{},{},{:.3},{},{},{:.6},{:.6},{:.6}",
            run.policy,
            run.domains,
            run.devices,
            run.simulated_s,
            run.took_s,
            run.kernels,
            run.decisions,
            run.min_max,
            run.min_max_worst,
            run.busy
        );
    }
    text += "\npolicy,domains,ns_per_decision\n";
    for cost in &scale.costs {
        let _ = writeln!(text, "{},{},{:.1}", cost.policy, cost.domains, cost.ns);
    }
    text
}

// ---- plots

/// The plots of an experiment, each with its file's name.
fn draw(done: &Done) -> Result<Vec<(String, String)>> {
    let mut drawn = Vec::new();
    for place in [Place::Real, Place::Sim] {
        let judged: Vec<&Judged> = done
            .judged
            .iter()
            .filter(|judged| judged.run.place == place)
            .collect();
        let Some(first) = judged.first() else {
            continue;
        };
        let name = |what: &str| format!("{}-{what}-{place}", done.experiment.name());
        let seconds = first.run.duration as f64 / 1e9;
        let title = |what: &str| format!("{what} ({place}, {seconds:.0} s)");
        drawn.push((
            name("shares"),
            shares(&judged, &title("Device time while there"))?,
        ));
        if judged
            .iter()
            .any(|judged| judged.measures.errors[0].is_some())
        {
            let rows: Vec<_> = judged
                .iter()
                .map(|judged| {
                    let errors = judged.measures.errors.map(|error| Some(error? * 100.0));
                    (judged.run.policy.to_string(), errors.to_vec())
                })
                .collect();
            let names = ERROR_WINDOWS.map(time);
            let axis = Axis::linear("mean utilisation error, % of the device");
            let title = title("Utilisation error by window");
            drawn.push((name("errors"), plot::bars(&title, &axis, &names, &rows)?));
        }
        let about = done.experiment.policies();
        let chosen = || {
            judged
                .iter()
                .filter(|judged| about.contains(&judged.run.policy))
        };
        if let Some(interactive) = done.experiment.interactive() {
            let title = title(&format!("Launch latency of {interactive}"));
            let picked: Vec<&Judged> = chosen().copied().collect();
            if let Some(svg) = latencies(&picked, interactive, &title)? {
                drawn.push((name("latency"), svg));
            }
        }
        if done.experiment.changes() {
            for judged in chosen() {
                let title = title(&format!("Device time over time, {}", judged.run.policy));
                drawn.push((
                    name(&format!("time-{}", judged.run.policy)),
                    over_time(&judged.run, &title)?,
                ));
            }
        }
    }
    Ok(drawn)
}

fn shares(judged: &[&Judged], title: &str) -> Result<String> {
    let engine = Engine::Compute;
    let names: Vec<String> = judged
        .first()
        .iter()
        .flat_map(|judged| &judged.run.domains)
        .filter(|had| had.domain.engine() == engine)
        .map(|had| had.domain.name.clone())
        .collect();
    let rows: Vec<Stack> = judged
        .iter()
        .map(|judged| {
            let run = &judged.run;
            let domains = run.domains.iter().zip(&judged.measures.domains);
            let of_run = |had: &Domain, part: f64| {
                let here = had.until.min(run.duration) - had.from.min(run.duration);
                part * here as f64 / run.duration.max(1) as f64
            };
            Stack {
                name: run.policy.to_string(),
                parts: domains
                    .filter(|(had, _)| had.domain.engine() == engine)
                    .map(|(had, m)| (of_run(&had.domain, m.part), of_run(&had.domain, m.fair)))
                    .collect(),
            }
        })
        .collect();
    let axis = "% of the compute engine's time; black: where each fair share would end";
    plot::stacks(&title.replace(" while there", ""), axis, &names, &rows)
}

fn over_time(run: &Run, title: &str) -> Result<String> {
    let windows = windows(&run.domains, Engine::Compute, STEP, run.duration);
    let lines: Vec<Line> = run
        .domains
        .iter()
        .enumerate()
        .filter(|(_, had)| had.domain.engine() == Engine::Compute)
        .map(|(index, had)| {
            let points = windows.used.iter().enumerate();
            let points = points.map(|(window, used)| {
                let middle = (window as f64 + 0.5) * STEP as f64 / 1e9;
                (middle, used[index] as f64 / STEP as f64 * 100.0)
            });
            Line {
                name: had.domain.name.clone(),
                points: points.collect(),
            }
        })
        .collect();
    let x = Axis::linear("time, s").between(0.0, run.duration as f64 / 1e9);
    let y = Axis::linear("% of the device, in steps of 500 ms").between(0.0, 100.0);
    plot::lines(title, &x, &y, &lines)
}

/// Which part of the launches waited longer than so long.
fn latencies(judged: &[&Judged], domain: &str, title: &str) -> Result<Option<String>> {
    let line = |name: &str, pieces: &[Piece]| {
        let mut waits = waits(pieces);
        waits.sort_by(f64::total_cmp);
        let count = waits.len();
        let points = waits.iter().enumerate().map(|(index, wait)| {
            let longer = (count - index) as f64 / count as f64;
            ((wait / 1e6).max(0.001), longer * 100.0)
        });
        Line {
            name: name.to_owned(),
            points: points.collect(),
        }
    };
    let place = |judged: &Judged| {
        let mut domains = judged.run.domains.iter();
        domains.position(|had| had.domain.name == domain)
    };
    let mut lines: Vec<Line> = judged
        .iter()
        .filter_map(|judged| {
            let had = judged.run.domains.get(place(judged)?)?;
            Some(line(judged.run.policy.name(), &had.pieces))
        })
        .collect();
    if let Some(first) = judged.first() {
        let alone = place(first).and_then(|index| first.alone.get(index)?.as_deref());
        lines.extend(alone.map(|pieces| line("alone", pieces)));
    }
    lines.retain(|line| !line.points.is_empty());
    if lines.is_empty() {
        return Ok(None);
    }
    let x = Axis::logarithmic("launch latency, ms");
    let y = Axis::logarithmic("% of launches that wait at least so long").between(0.1, 100.0);
    Ok(Some(plot::lines(title, &x, &y, &lines)?))
}

fn draw_scale(scale: &Scale) -> Result<Vec<(String, String)>> {
    let mut policies: Vec<PolicyKind> = scale.costs.iter().map(|cost| cost.policy).collect();
    policies.dedup();
    // First in the legend is what most is promised of.
    policies.reverse();
    let lines: Vec<Line> = policies
        .iter()
        .map(|&policy| {
            let costs = scale.costs.iter().filter(|cost| cost.policy == policy);
            Line {
                name: policy.to_string(),
                points: costs
                    .map(|cost| (f64::from(cost.domains), cost.ns))
                    .collect(),
            }
        })
        .collect();
    let x = Axis::logarithmic("domains that all have work");
    let y = Axis::linear("ns for each piece of work");
    let title = "What a decision costs (one device)";
    let mut drawn = vec![("scale-cost".to_owned(), plot::lines(title, &x, &y, &lines)?)];
    let fair = scale.simulated.iter();
    let fair = fair.filter(|run| run.policy == PolicyKind::Fair);
    let points: Vec<_> = fair
        .map(|run| (f64::from(run.domains), run.took_s))
        .collect();
    if points.len() > 1 {
        let simulated = scale.simulated.first().map_or(0.0, |run| run.simulated_s);
        let line = Line {
            name: "fair".to_owned(),
            points,
        };
        let x = Axis::logarithmic("domains, up to 100 on each device");
        let y = Axis::logarithmic("s on this machine");
        let title = format!("To simulate {simulated:.0} s");
        drawn.push((
            "scale-time".to_owned(),
            plot::lines(&title, &x, &y, &[line])?,
        ));
    }
    Ok(drawn)
}

// ---- the page

const STYLE: &str = "
body{font:15px/1.45 sans-serif;color:#111;background:#fff;max-width:1400px;margin:24px auto;padding:0 20px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:20px;margin:36px 0 6px;border-top:1px solid #ccc;padding-top:18px}
h3{font-size:16px;margin:18px 0 6px}p{max-width:95ch;margin:6px 0}
table{border-collapse:collapse;margin:8px 0;font-size:13.5px}
th,td{padding:3px 9px;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th{background:#f3f3f3;vertical-align:bottom;white-space:normal;max-width:110px}
td.t,th.t{text-align:left}td.w{white-space:normal}
.yes{color:#00624a;font-weight:bold}.no{color:#a33c00;font-weight:bold}
.plots{display:flex;flex-wrap:wrap;gap:10px}.plots>div{flex:0 0 680px}
details{margin:8px 0}summary{cursor:pointer;font-weight:bold}
nav a{margin-right:14px}dt{font-weight:bold}dd{margin:0 0 6px 20px;max-width:95ch}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A table; columns whose title begins with `:` are text.
fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    let text = |index: usize| columns[index].starts_with(':');
    let mut html = "<table><tr>".to_owned();
    for (index, column) in columns.iter().enumerate() {
        let class = if text(index) { " class=t" } else { "" };
        let _ = write!(
            html,
            "<th{class}>{}</th>",
            escape(column.trim_start_matches(':'))
        );
    }
    html += "</tr>\n";
    for row in rows {
        html += "<tr>";
        for (index, cell) in row.iter().enumerate() {
            let class = match cell.as_str() {
                "holds" => " class='t yes'",
                "DOES NOT HOLD" => " class='t no'",
                long if text(index) && long.len() > 70 => " class='t w'",
                _ if text(index) => " class=t",
                _ => "",
            };
            let _ = write!(html, "<td{class}>{}</td>", escape(cell));
        }
        html += "</tr>\n";
    }
    html + "</table>\n"
}

fn claims_table<'c>(claims: impl Iterator<Item = &'c Claim>) -> String {
    let rows: Vec<Vec<String>> = claims
        .map(|claim| {
            vec![
                claim.what.clone(),
                claim.place.to_string(),
                claim.wanted.clone(),
                claim.measured.clone(),
                verdict(claim).to_owned(),
            ]
        })
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => table(&[":what", ":where", "wanted", "measured", ":"], &rows),
    }
}

/// Whether a claim holds, in words.
pub fn verdict(claim: &Claim) -> &'static str {
    match claim.holds {
        Some(true) => "holds",
        Some(false) => "DOES NOT HOLD",
        None => "–",
    }
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{:.2}", value * 100.0))
}

fn plain(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

fn figures(drawn: &[(String, String)]) -> String {
    let figures = drawn.iter().map(|(_, svg)| format!("<div>{svg}</div>\n"));
    format!("<div class=plots>{}</div>\n", figures.collect::<String>())
}

fn section(done: &Done, drawn: &[(String, String)]) -> String {
    let name = done.experiment.name();
    let mut html = format!(
        "<h2 id={name}>{name}</h2>\n<p>{}</p>\n",
        escape(done.experiment.about())
    );
    if let Some(judged) = done.judged.first() {
        let rows: Vec<Vec<String>> = judged
            .run
            .domains
            .iter()
            .map(|had| {
                let domain = &had.domain;
                let share = domain.share;
                vec![
                    domain.name.clone(),
                    domain.describe(),
                    share.weight.to_string(),
                    share.cap.map_or("–".to_owned(), |cap| format!("{cap} %")),
                    changes(domain),
                ]
            })
            .collect();
        html += &table(
            &[":domain", ":what it does", "weight", "cap", ":changes"],
            &rows,
        );
    }
    html += &claims_table(done.claims.iter());
    html += &figures(drawn);
    html += &measures_table(done);
    html += &format!(
        "<details><summary>Each domain: device time, launch latency, the scheduler's books</summary>{}</details>\n",
        domains_table(&done.judged)
    );
    html
}

fn changes(domain: &Domain) -> String {
    let mut text: Vec<String> = Vec::new();
    for (when, share) in &domain.shares {
        text.push(format!("weight {} from {}", share.weight, time(*when)));
    }
    match domain.cpu.as_slice() {
        states @ ([_] | [_, _]) => {
            for (when, state) in states {
                text.push(format!(
                    "processors' weight {} from {}",
                    state.weight,
                    time(*when)
                ));
            }
        }
        [] => {}
        states => text.push(format!(
            "its processors start or stop {} times",
            states.len()
        )),
    }
    text.join("; ")
}

fn measures_table(done: &Done) -> String {
    let columns = [
        ":policy",
        ":where",
        "Jain's index",
        "min-max ratio",
        "of 10 s windows, median",
        "worst share, % off",
        "error 100 ms, %",
        "error 500 ms, %",
        "error 1 s, %",
        "worst in 1 s, own kernels",
        "two apart in 1 s",
        "device busy, %",
        "idle while work waits, %",
        "idle on purpose, %",
        "overhead against fifo, %",
        "STP",
        "ANTT",
        "books' error, %",
    ];
    let rows: Vec<Vec<String>> = done
        .judged
        .iter()
        .map(|judged| {
            let Measures {
                busy,
                lost,
                held,
                jain,
                min_max,
                min_max_10s,
                share_error,
                errors,
                worst_kernels,
                worst_lag,
                stp,
                antt,
                accounting_error,
                ..
            } = &judged.measures;
            vec![
                judged.run.policy.to_string(),
                judged.run.place.to_string(),
                plain(*jain),
                plain(*min_max),
                plain(*min_max_10s),
                percent(*share_error),
                percent(errors[0]),
                percent(errors[1]),
                percent(errors[2]),
                plain(*worst_kernels),
                plain(*worst_lag),
                percent(Some(*busy)),
                percent(Some(*lost)),
                percent(*held),
                percent(Runs(&done.judged).overhead(judged)),
                plain(*stp),
                plain(*antt),
                match judged.run.place {
                    Place::Real => percent(*accounting_error),
                    Place::Sim => "–".to_owned(),
                },
            ]
        })
        .collect();
    table(&columns, &rows)
}

fn domains_table(judged: &[Judged]) -> String {
    let columns = [
        ":policy",
        ":where",
        ":domain",
        "pieces of work",
        "device time, ms",
        "part of the device, %",
        "fair part, %",
        "slowdown",
        "latency p50, ms",
        "p99",
        "p99.9",
        "alone p50, ms",
        "p99",
        "p99.9",
        "copied, MB/s",
        "books: device time, ms",
        "books: launches",
        "trace: launches",
        "turns",
    ];
    let mut rows = Vec::new();
    for judged in judged {
        for (had, m) in judged.run.domains.iter().zip(&judged.measures.domains) {
            let ms = |latency: Option<Latency>| match latency {
                Some(l) => [l.p50, l.p99, l.p999].map(|value| format!("{:.3}", value / 1e6)),
                None => ["–"; 3].map(str::to_owned),
            };
            let counted = &had.counted;
            let mut row = vec![
                judged.run.policy.to_string(),
                judged.run.place.to_string(),
                m.name.clone(),
                m.pieces.to_string(),
                format!("{:.1}", m.used_ns as f64 / 1e6),
                percent(Some(m.part)),
                percent(Some(m.fair)),
                m.slowdown.map_or("–".to_owned(), |s| format!("{s:.2}")),
            ];
            row.extend(ms(Some(m.latency)));
            row.extend(ms(m.alone));
            row.extend([
                match had.domain.engine() {
                    Engine::Copy => format!("{:.0}", m.rate / 1e6),
                    Engine::Compute => "–".to_owned(),
                },
                format!(
                    "{:.1}",
                    (counted.kernels_ns + counted.copies_ns) as f64 / 1e6
                ),
                counted.launches.to_string(),
                counted.traced_launches.to_string(),
                counted.turns.to_string(),
            ]);
            rows.push(row);
        }
    }
    table(&columns, &rows)
}

fn scale_section(scale: &Scale, drawn: &[(String, String)]) -> String {
    let rows: Vec<Vec<String>> = scale
        .simulated
        .iter()
        .map(|run| {
            vec![
                run.policy.to_string(),
                run.domains.to_string(),
                run.devices.to_string(),
                format!("{:.0}", run.simulated_s),
                format!("{:.2}", run.took_s),
                run.kernels.to_string(),
                run.decisions.to_string(),
                format!("{:.4}", run.min_max),
                format!("{:.4}", run.min_max_worst),
                format!("{:.2}", run.busy * 100.0),
            ]
        })
        .collect();
    let columns = [
        ":policy",
        "domains",
        "devices",
        "simulated, s",
        "took, s",
        "kernels",
        "decisions",
        "min-max ratio, median of devices",
        "worst device",
        "devices busy, %",
    ];
    format!(
        "<h2 id={0}>{0}</h2>\n<p>{1}</p>\n{2}{3}{4}",
        scale::NAME,
        escape(scale::ABOUT),
        claims_table(scale.claims.iter()),
        figures(drawn),
        table(&columns, &rows)
    )
}

const DEFINITIONS: [(&str, &str); 10] = [
    (
        "device time",
        "From a kernel's first instruction to its last, as the kernel itself writes down by the device's clock. Time in which \
         several overlap on the device is counted once. Copies: as the recorded trace says.",
    ),
    (
        "fair share",
        "By weight among those who want the device; who wants less leaves the rest to the others (weighted max-min). Under \
         policies that follow the hypervisor the weight is that of the domain's processors.",
    ),
    (
        "Jain's index, min-max ratio",
        "Of each one's device time over its fair share, among those who always want the device and have no cap: \
         (Σx)² / (n Σx²), and least over most. 1 is fair.",
    ),
    (
        "utilisation error",
        "Mean over windows and domains of |part of the window had − part entitled to| (Gdev, GPUvm).",
    ),
    (
        "worst in 1 s, own kernels",
        "In the worst second, how far the worst-off domain's device time is from its share of all device time handed out \
         in that second, in kernels of that domain.",
    ),
    (
        "two apart in 1 s",
        "The most by which the device times of two domains differ in a second, each over its weight, in units of one kernel of \
         each: what start-time fair queuing promises is at most 1. No scheduler that lets kernels run to their end can hold \
         everybody within one of its own: a quarter of a second is twelve and a half kernels of 20 ms, and what that domain \
         has too much, those with shorter kernels have too little.",
    ),
    (
        "launch latency",
        "From before the call that launches a kernel to its first instruction on the device.",
    ),
    (
        "slowdown, STP, ANTT",
        "Mean time from launch to result, shared over alone; the sum of its inverses; its mean over the domains.",
    ),
    (
        "idle while work waits",
        "Part of the time in which no kernel ran although a program had launched one: launching itself, telling who is next, \
         and waits on purpose, which are also told apart where they are known.",
    ),
    (
        "overhead against fifo",
        "How much more device time was handed out in the same time under fifo, where nothing is held up.",
    ),
];

fn page(outcome: &Outcome, sections: &str) -> String {
    let machine = &outcome.machine;
    let mut devices: Vec<&str> = outcome
        .done
        .iter()
        .flat_map(|done| &done.judged)
        .filter(|judged| judged.run.place == Place::Real)
        .map(|judged| judged.run.device.as_str())
        .collect();
    devices.sort_unstable();
    devices.dedup();
    let holds = outcome
        .claims()
        .filter(|claim| claim.holds == Some(true))
        .count();
    let all = outcome.claims().count();
    let names = outcome.done.iter().map(|done| done.experiment.name());
    let names = names.chain(outcome.scale.iter().map(|_| scale::NAME));
    let links = names.map(|name| format!("<a href='#{name}'>{name}</a>"));
    let mut html = format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\n\
         <title>xen-vgpu: fairness experiments</title>\n<style>{STYLE}</style>\n<h1>Fairness experiments</h1>\n\
         <p>Domains that share an accelerator: <b>real</b> are CUDA programs in guests, through the split driver; <b>sim</b> is \
         the same scheduler code on a virtual clock.</p>\n<nav>{}</nav>\n",
        links.collect::<String>()
    );
    let _ = write!(
        html,
        "<h2>What must be shown: {holds} of {all} hold</h2>\n{}",
        claims_table(outcome.claims())
    );
    let list = |title: &str, items: &[String]| match items.is_empty() {
        true => String::new(),
        false => {
            let items = items.iter();
            let items = items.map(|item| format!("<li>{}</li>", escape(item)));
            format!("<h3>{title}</h3><ul>{}</ul>\n", items.collect::<String>())
        }
    };
    html += &list("Failed", &outcome.failed);
    html += &list("Left out", &outcome.left_out);
    let _ = writeln!(
        html,
        "<h3>The machine</h3><p>{}, {} cores, {:.0} GB of memory, Linux {}; device: {}. Load average {:.2} before and {:.2} \
         after: with other work on the machine, real runs mean little. All of it took {:.0} s.</p>",
        escape(&machine.processor),
        machine.cores,
        machine.memory_gb,
        escape(&machine.kernel),
        match devices.is_empty() {
            true => "none, simulated".to_owned(),
            false => escape(&devices.join(", ")),
        },
        machine.load.0,
        machine.load.1,
        outcome.took.as_secs_f64()
    );
    html += sections;
    html += "<h2>What the words mean</h2><dl>\n";
    for (term, meaning) in DEFINITIONS {
        let _ = writeln!(
            html,
            "<dt>{}</dt><dd>{}</dd>",
            escape(term),
            escape(meaning)
        );
    }
    html + "</dl></html>\n"
}
