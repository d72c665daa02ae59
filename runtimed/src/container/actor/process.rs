//! What an owner asks of the shim for the processes of its container.

use std::os::fd::AsFd;

use linkspan_proto::shim_v1::shim_message::Content;
use linkspan_proto::shim_v1::shim_request::Operation;
use linkspan_proto::shim_v1::{AttachRequest, ExecRequest as WireExec, ProcessSpec, SignalRequest};
use prost::Message;
use tokio::sync::oneshot;

use super::super::state::Request;
use super::super::streams::ShimStreams;
use super::super::{ContainerError, ExecRequest, Result, environment};
use super::Actor;
use crate::shim_client::ShimError;

impl Actor {
    pub(super) async fn signal(
        &mut self,
        request: Request,
        signal: i32,
        exec_id: &str,
    ) -> Result<()> {
        let operation = SignalRequest {
            signal,
            exec_id: exec_id.to_owned(),
            all: false,
        };
        self.ask_shim(request, Operation::Signal(operation)).await
    }

    pub(super) async fn ask_shim(&mut self, request: Request, operation: Operation) -> Result<()> {
        self.admit(request)?;
        let running = self.running.as_ref().ok_or(ContainerError::Gone)?;
        running.shim.request(operation, &[]).await?;
        Ok(())
    }

    pub(super) async fn attach(&mut self, streams: &ShimStreams) -> Result<()> {
        self.admit(Request::Attach)?;
        let running = self.running.as_ref().ok_or(ContainerError::Gone)?;
        let request = Operation::Attach(AttachRequest {
            streams: Some(streams.to_wire()),
        });
        running.shim.request(request, &streams.fds()).await?;
        Ok(())
    }

    pub(super) async fn exec(&mut self, exec: ExecRequest) -> Result<oneshot::Receiver<i32>> {
        self.admit(Request::Exec)?;
        let running = self.running.as_ref().ok_or(ContainerError::Gone)?;
        let config = &self.record.config;
        let or = |given: String, default: &str| {
            if given.is_empty() {
                default.to_owned()
            } else {
                given
            }
        };
        let mut env = running.run.env.clone();
        if exec.tty {
            environment::apply(&mut env, &["TERM=xterm".to_owned()]);
        }
        environment::apply(&mut env, &exec.env);
        let process = ProcessSpec {
            args: exec.args,
            env,
            cwd: or(
                exec.working_dir,
                or(config.working_dir.clone(), "/").as_str(),
            ),
            user: or(exec.user, &config.user),
            additional_groups: self.record.host.group_add.clone(),
            tty: exec.tty,
            open_stdin: exec.streams.has_stdin(),
            size: exec.size,
            stdin_once: !exec.tty,
        };
        let spec =
            linkspan_sys::memfd::sealed("process-spec", &process.encode_to_vec()).map_err(|e| {
                ContainerError::Files {
                    act: "write the specification".to_owned(),
                    source: std::io::Error::other(e),
                }
            })?;
        let mut fds = vec![spec.as_fd()];
        fds.extend(exec.streams.fds());
        let exit = running.shim.exec_exit(&exec.exec_id);
        let request = Operation::Exec(WireExec {
            exec_id: exec.exec_id,
            streams: Some(exec.streams.to_wire()),
        });
        match running.shim.request(request, &fds).await? {
            Content::Started(_) => Ok(exit),
            _ => Err(ShimError::Protocol.into()),
        }
    }
}
