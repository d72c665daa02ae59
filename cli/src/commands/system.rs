//! `version` and `info`.

use std::process::ExitCode;

use linkspan_proto::runtime_v1::{GetInfoRequest, GetVersionRequest};
use serde_json::{Value as Json, json};

use crate::args::FormatArguments;
use crate::client::Client;
use crate::printer::{self, human_size};
use crate::template::Format;

pub(crate) async fn version(
    mut client: Client,
    arguments: FormatArguments,
) -> anyhow::Result<ExitCode> {
    let server = client
        .system
        .get_version(GetVersionRequest {})
        .await?
        .into_inner();
    let object = json!({
        "Client": {"Version": env!("CARGO_PKG_VERSION"), "ApiVersion": "v1", "Os": "linux"},
        "Server": {
            "Version": server.version,
            "ApiVersion": server.api_version,
            "KernelVersion": server.kernel,
            "Os": server.os,
            "Arch": server.architecture,
        },
    });
    let text = format!(
        "Client:\n Version:      {}\n API version:  v1\n\nServer:\n Version:      {}\n API version:  {}\n Kernel:       {}\n OS/Arch:      {}/{}",
        env!("CARGO_PKG_VERSION"),
        server.version,
        server.api_version,
        server.kernel,
        server.os,
        server.architecture
    );
    print(&object, &text, arguments.format.as_deref())
}

pub(crate) async fn info(
    mut client: Client,
    arguments: FormatArguments,
) -> anyhow::Result<ExitCode> {
    let info = client
        .system
        .get_info(GetInfoRequest {})
        .await?
        .into_inner();
    let object = json!({
        "Containers": info.containers,
        "ContainersRunning": info.running,
        "ContainersPaused": info.paused,
        "ContainersStopped": info.stopped,
        "Images": info.images,
        "ServerVersion": info.version,
        "DockerRootDir": info.root_dir,
        "RunDir": info.run_dir,
        "CgroupVersion": info.cgroup_version.to_string(),
        "KernelVersion": info.kernel,
        "OperatingSystem": info.operating_system,
        "NCPU": info.cpus,
        "MemTotal": info.memory_bytes,
        "Name": info.hostname,
        "NetdAvailable": info.netd_available,
    });
    let netd = if info.netd_available {
        "answers"
    } else {
        "does not answer"
    };
    let text = format!(
        "Containers: {}\n Running: {}\n Paused: {}\n Stopped: {}\nImages: {}\nServer Version: {}\nnetd: {netd}\nCgroup Version: {}\nKernel Version: {}\nOperating System: {}\nCPUs: {}\nTotal Memory: {}\nName: {}\nRoot Dir: {}\nRun Dir: {}",
        info.containers,
        info.running,
        info.paused,
        info.stopped,
        info.images,
        info.version,
        info.cgroup_version,
        info.kernel,
        info.operating_system,
        info.cpus,
        human_size(info.memory_bytes),
        info.hostname,
        info.root_dir,
        info.run_dir
    );
    print(&object, &text, arguments.format.as_deref())
}

fn print(object: &Json, text: &str, format: Option<&str>) -> anyhow::Result<ExitCode> {
    match format {
        None => printer::line(text)?,
        Some("json") => printer::line(&object.to_string())?,
        Some(template) => printer::line(&Format::parse(template)?.render(object)?)?,
    }
    Ok(ExitCode::SUCCESS)
}
