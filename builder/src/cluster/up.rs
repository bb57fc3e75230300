//! `builder up`: the command, from its options to its exit code.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};
use kiln_coordinator::plan::ClusterFile;
use kiln_protocol::names::SubjectAltName;
use tokio::time::Instant;

use super::bring_up::{Order, bring_up, preflight, undo};
use super::context::Context;
use super::down;
use super::paths::StateDir;
use super::plan::Data;
use super::screen::{Screen, print_json};
use super::summary::Summary;
use super::target::{self, Image};
use crate::failure::{BadInput, Interrupted};
use crate::machine::qemu::AccelChoice;
use crate::machine::qemu::accel::{Evidence, decide};
use crate::provider::qemu::Qemu;
use crate::provider::{Finding, Provider, Severity};
use crate::run::interrupt::or_interrupted;

/// What `builder up` is asked for.
#[derive(Debug)]
pub struct Options {
    /// The cluster file.
    pub file: PathBuf,
    /// The image: a bake's result, a directory of such, or a qcow2 file.
    pub image: PathBuf,
    /// The state directory, if not the usual one.
    pub state: Option<PathBuf>,
    /// Where nodes are told to look for the coordinator.
    pub advertise: Option<SubjectAltName>,
    /// What becomes of the data of a sole server that is gone.
    pub data: Option<Data>,
    /// When everything must be done.
    pub timeout: Duration,
    /// What runs the guests.
    pub accel: AccelChoice,
    /// Leave what was made when the run fails.
    pub keep: bool,
    /// JSON lines instead of a table.
    pub json: bool,
}

/// Brings a cluster up, or what is missing of it. Deals with Ctrl-C itself:
/// the first one undoes what this run made, the second one ends that too.
pub async fn up(options: Options) -> Result<()> {
    let deadline = Instant::now() + options.timeout;
    let mut screen = if options.json { Screen::json() } else { Screen::for_people() };
    let (file, image, state) = or_interrupted(read(&options)).await?;
    let order = Order {
        file: &file,
        image: &image,
        firmware: BTreeMap::new(),
        advertise: options.advertise.clone(),
        data: options.data.clone(),
        deadline,
    };
    let asked = Provider::Qemu(Qemu::new(&state));
    refuse(&or_interrupted(async { Ok(preflight(&asked, &order).await) }).await?, &mut screen)?;
    let accel = or_interrupted(choose_accel(&options, &image)).await?;
    if let Some(warning) = &accel.warning {
        screen.note(&format!("warning: {warning}"));
    }
    let provider = Provider::Qemu(Qemu::new(&state).accel(accel.accel));
    let mut context = or_interrupted(open(&state, &file, &provider)).await?;
    let outcome = or_interrupted(bring_up(&mut context, &order, &mut screen)).await;
    screen.finish();
    match outcome {
        Ok(summary) => {
            print(&summary, screen.is_json());
            Ok(())
        }
        Err(error) => Err(clean_up(context, error, options.keep).await),
    }
}

async fn read(options: &Options) -> Result<(ClusterFile, Image, StateDir)> {
    let file = target::read_file(&options.file)?;
    if let Some(Data::Restore(copy)) = &options.data
        && !copy.is_file()
    {
        let why = format!("--restore {}: there is no such file: give the copy of state.db", copy.display());
        return Err(BadInput(why).into());
    }
    let image = target::read_image(&options.image, &file.image().to_string()).await?;
    Ok((file, image, StateDir::resolve(options.state.clone())?))
}

/// Says what was found; an error among it ends the run before it touches
/// anything.
pub(super) fn refuse(findings: &[Finding], screen: &mut Screen) -> Result<()> {
    for finding in findings.iter().filter(|finding| finding.severity == Severity::Warning) {
        screen.note(&finding.to_string());
    }
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let errors: Vec<&str> = errors.map(|finding| finding.text.as_str()).collect();
    match errors[..] {
        [] => Ok(()),
        _ => Err(BadInput(errors.join("\nerror: ")).into()),
    }
}

async fn choose_accel(options: &Options, image: &Image) -> Result<crate::machine::qemu::accel::Decision> {
    let cache = crate::run::dirs::cache()?;
    if options.accel == AccelChoice::Auto {
        crate::run::dirs::create_private(&cache)?;
    }
    let work = tempfile::Builder::new().prefix("kiln-").tempdir()?;
    decide(options.accel, Evidence::Image(&image.disk.path), &cache, work.path()).await
}

/// Takes the cluster; finishes a `down` that did not come to its end.
pub(super) async fn open(state: &StateDir, file: &ClusterFile, provider: &Provider) -> Result<Context> {
    let command = format!("up {}", file.name());
    let take = || Context::open(state, file.name(), provider.clone(), &command);
    let context = take()?;
    if !context.journal.state().ending {
        return Ok(context);
    }
    let left = down::remove_all(context, None).await?;
    if left.is_empty() {
        return take();
    }
    Err(anyhow!("an earlier `down` of this cluster left:\n  {}", left.join("\n  ")))
}

/// Undoes what a failed run made, or says that it is there.
async fn clean_up(context: Context, error: anyhow::Error, keep: bool) -> anyhow::Error {
    let made = context.journal.state().made_by(&context.run);
    let list = || made.iter().map(|subject| format!("\n  {subject}")).collect::<Vec<_>>().concat();
    if made.is_empty() {
        return error;
    }
    if keep {
        eprintln!(
            "cluster {} is left as it is (--keep): `builder up` goes on, `builder down` removes{}",
            context.selector.cluster,
            list()
        );
        return error;
    }
    eprintln!("undoing what this run made; Ctrl-C leaves it as it is");
    match or_interrupted(async { Ok(undo(context).await) }).await {
        Ok(left) if left.is_empty() => error,
        Ok(left) => anyhow!("{error:#}\nand what it made could not all be undone:\n  {}", left.join("\n  ")),
        Err(stopped) if stopped.is::<Interrupted>() => {
            anyhow!(
                "{error:#}\nand undoing it was interrupted: `builder down` removes what is left of{}",
                list()
            )
        }
        Err(other) => other,
    }
}

fn print(summary: &Summary, json: bool) {
    if json {
        #[derive(serde::Serialize)]
        #[serde(tag = "event", rename_all = "snake_case")]
        enum Event<'a> {
            Up(&'a Summary),
        }
        return print_json(&Event::Up(summary));
    }
    let text = format!(
        "\nseconds since power-on:\n{}\n\ncluster {} is up: kubectl --kubeconfig {} get nodes\n",
        summary.table().join("\n"),
        summary.cluster,
        summary.kubeconfig.display()
    );
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}
