//! `--format`: Go templates over JSON, with the functions that Docker adds.
//!
//! An unknown field is an error, as it is for Docker; only under `Labels`, whose keys are
//! the user's, does a missing one print `<no value>`.

use std::collections::BTreeMap;

use anyhow::anyhow;
use gotmpl::{MissingKey, Template, Value};
use serde_json::Value as Json;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Format {
    text: String,
}

impl Format {
    /// Checks a template.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let format = Self {
            text: text.to_owned(),
        };
        format.template(MissingKey::Error)?;
        Ok(format)
    }

    /// Renders one object.
    pub(crate) fn render(&self, object: &Json) -> anyhow::Result<String> {
        let data = to_value(object);
        let rendered = self.template(MissingKey::Error)?.execute_to_string(&data);
        let rendered = match rendered {
            Err(_) if self.text.contains(".Labels.") => {
                self.template(MissingKey::Invalid)?.execute_to_string(&data)
            }
            other => other,
        };
        rendered.map_err(|error| anyhow!("the template `{}` does not fit: {error}", self.text))
    }

    fn template(&self, missing: MissingKey) -> anyhow::Result<Template> {
        let template = Template::new("format")
            .missing_key(missing)
            .func("json", |args| {
                Ok(text(
                    &to_json(args.first().unwrap_or(&Value::Nil)).to_string(),
                ))
            })
            .func("join", |args| {
                Ok(text(&list(args.first()).join(&string(args.get(1)))))
            })
            .func("split", |args| {
                let parts = string(args.first());
                Ok(Value::from(
                    parts
                        .split(&string(args.get(1)))
                        .map(Value::from)
                        .collect::<Vec<_>>(),
                ))
            })
            .func("lower", |args| {
                Ok(text(&string(args.first()).to_lowercase()))
            })
            .func("upper", |args| {
                Ok(text(&string(args.first()).to_uppercase()))
            })
            .func("title", |args| Ok(text(&title(&string(args.first())))))
            .func("pad", |args| {
                Ok(text(&pad(
                    &string(args.first()),
                    count(args.get(1)),
                    count(args.get(2)),
                )))
            })
            .func("truncate", |args| {
                Ok(text(
                    &string(args.first())
                        .chars()
                        .take(count(args.get(1)))
                        .collect::<String>(),
                ))
            });
        template
            .parse(&self.text)
            .map_err(|error| anyhow!("the template `{}` is not valid: {error}", self.text))
    }
}

fn text(text: &str) -> Value {
    Value::from(text)
}

fn string(value: Option<&Value>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

fn count(value: Option<&Value>) -> usize {
    value
        .and_then(Value::as_int)
        .and_then(|number| usize::try_from(number).ok())
        .unwrap_or(0)
}

fn list(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::List(items)) => items.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

fn title(text: &str) -> String {
    let mut start = true;
    let character = |c: char| {
        let upper = start && c.is_alphabetic();
        start = c.is_whitespace();
        if upper { c.to_ascii_uppercase() } else { c }
    };
    text.chars().map(character).collect()
}

fn pad(text: &str, before: usize, after: usize) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("{}{text}{}", " ".repeat(before), " ".repeat(after))
    }
}

fn to_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(bool) => Value::Bool(*bool),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(int), _, _) => Value::Int(int),
            (None, Some(uint), _) => Value::Uint(uint),
            (None, None, float) => Value::Float(float.unwrap_or(0.0)),
        },
        Json::String(string) => Value::from(string.as_str()),
        Json::Array(items) => Value::from(items.iter().map(to_value).collect::<Vec<_>>()),
        Json::Object(fields) => {
            let mut map: BTreeMap<String, Value> = fields
                .iter()
                .map(|(key, value)| (key.clone(), to_value(value)))
                .collect();
            // Docker's templates may use the name of the field in its source, too.
            if let Some(id) = fields.get("Id") {
                map.insert("ID".to_owned(), to_value(id));
            }
            Value::from(map)
        }
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Nil | Value::Function(_) => Json::Null,
        Value::Bool(bool) => Json::from(*bool),
        Value::Int(int) => Json::from(*int),
        Value::Uint(uint) => Json::from(*uint),
        Value::Float(float) => Json::from(*float),
        Value::String(string) => Json::from(string.as_ref()),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(map) => {
            let fields = map
                .iter()
                .filter(|(key, _)| !(key.as_ref() == "ID" && map.contains_key("Id")));
            Json::Object(
                fields
                    .map(|(key, value)| (key.to_string(), to_json(value)))
                    .collect(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str, object: &Json) -> String {
        Format::parse(template).unwrap().render(object).unwrap()
    }

    /// Rows S26 and S27.
    #[test]
    fn a_list_prints_as_go_prints_it() {
        let object = json!({"HostConfig": {"Links": ["/db:/web/db"]}});
        assert_eq!(render("{{ .HostConfig.Links }}", &object), "[/db:/web/db]");
        assert_eq!(
            render(
                "{{ .HostConfig.Links }}",
                &json!({"HostConfig": {"Links": []}})
            ),
            "[]"
        );
        assert_eq!(
            render("{{json .HostConfig}}", &object),
            r#"{"Links":["/db:/web/db"]}"#
        );
    }

    #[test]
    fn the_templates_that_people_use_work() {
        let object = json!({"Id": "abc", "Name": "/web", "State": {"Running": true}, "Config": {"Cmd": ["a", "b"],
            "Labels": {}}, "NetworkSettings": {"Ports": {"80/tcp": [{"HostPort": "8080"}]}}});
        for (template, text) in [
            ("{{.ID}} {{.Id}}", "abc abc"),
            ("{{.State.Running}}", "true"),
            (
                r#"{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}"#,
                "8080",
            ),
            (r#"{{join .Config.Cmd " "}}"#, "a b"),
            ("{{slice .Name 1}}", "web"),
            ("{{.Config.Labels.nope}}", "<no value>"),
            (
                "{{range $p, $c := .NetworkSettings.Ports}}{{$p}} -> {{(index $c 0).HostPort}}{{end}}",
                "80/tcp -> 8080",
            ),
        ] {
            assert_eq!(render(template, &object), text, "{template}");
        }
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        Format::parse("{{.NoSuch}}")
            .unwrap()
            .render(&json!({}))
            .unwrap_err();
        Format::parse("{{.Open").unwrap_err();
    }
}
