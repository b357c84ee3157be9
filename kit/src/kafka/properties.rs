//! Reads a `client.properties` file of Kafka's own tools and translates it to settings of librdkafka.
//!
//! Most settings have the same name in both. Others are translated from Java's spelling. A setting without a
//! counterpart is refused by name.

use std::collections::BTreeMap;

/// The settings that a file may have: those about the connection, and none that a promise depends on. A prefix ends
/// with a dot.
const ALLOWED: [&str; 13] = [
    "api.version.request.",
    "broker.address.",
    "client.dns.lookup",
    "client.rack",
    "compression.",
    "connections.max.idle.ms",
    "debug",
    "enable.ssl.certificate.verification",
    "reconnect.backoff.",
    "sasl.",
    "security.protocol",
    "socket.",
    "ssl.",
];

fn is_allowed(key: &str) -> bool {
    ALLOWED.iter().any(|allowed| if allowed.ends_with('.') { key.starts_with(allowed) } else { key == *allowed })
}

/// Why a file of properties cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertiesError {
    /// A line is not of the form `key=value`.
    #[error("line {0} is no `key=value`")]
    Line(usize),
    /// A setting is not allowed, or its value is not supported.
    #[error("{key} {problem}")]
    Value {
        /// The name of the setting.
        key: String,
        /// The problem, phrased to follow the name of the setting.
        problem: String,
    },
}

fn wrong(key: &str, problem: impl Into<String>) -> PropertiesError {
    PropertiesError::Value { key: key.to_owned(), problem: problem.into() }
}

/// Reads the text of a `client.properties` file.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, PropertiesError> {
    let given = pairs(text)?;
    let keystore_is_pem = given.get("ssl.keystore.type").is_some_and(|kind| kind == "PEM");
    let mut settings = Vec::new();
    for (key, value) in &given {
        if key == "bootstrap.servers" || key == "metadata.broker.list" {
            return Err(wrong(key, "is given by --kafka-brokers"));
        }
        if !is_allowed(key) {
            return Err(wrong(
                key,
                "is not about how the cluster is reached (TLS, SASL, sockets), and must not be set",
            ));
        }
        let mut set = |name: &str| settings.push((name.to_owned(), value.clone()));
        match key.as_str() {
            "sasl.jaas.config" => settings.extend(jaas(key, value)?),
            "sasl.login.callback.handler.class" | "sasl.client.callback.handler.class" => {} // librdkafka has its own
            "sasl.oauthbearer.token.endpoint.url" => {
                set(key);
                settings.push(("sasl.oauthbearer.method".to_owned(), "oidc".to_owned()));
            }
            "ssl.truststore.type" if value == "PEM" => {}
            "ssl.truststore.type" => return Err(wrong(key, "must be PEM")),
            "ssl.truststore.location" if given.contains_key("ssl.truststore.type") => set("ssl.ca.location"),
            "ssl.truststore.location" => {
                return Err(wrong(key, "needs ssl.truststore.type=PEM, and a file in the PEM format"));
            }
            "ssl.truststore.certificates" => set("ssl.ca.pem"),
            "ssl.keystore.type" if matches!(value.as_str(), "PEM" | "PKCS12") => {}
            "ssl.keystore.type" => return Err(wrong(key, "must be PEM or PKCS12")),
            "ssl.keystore.location" if keystore_is_pem => {
                set("ssl.certificate.location");
                set("ssl.key.location");
            }
            "ssl.keystore.certificate.chain" => set("ssl.certificate.pem"),
            "ssl.keystore.key" => set("ssl.key.pem"),
            "ssl.endpoint.identification.algorithm" if value.is_empty() => {
                settings.push((key.clone(), "none".to_owned()));
            }
            _ => set(key),
        }
    }
    Ok(settings)
}

/// Splits the lines into keys and values, without comments and with continued lines joined.
fn pairs(text: &str) -> Result<BTreeMap<String, String>, PropertiesError> {
    let mut pairs = BTreeMap::new();
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        while let Some(continued) = line.strip_suffix('\\') {
            let next = lines.next().map(|(next, _)| next.trim()).unwrap_or_default();
            line = format!("{continued}{next}");
        }
        let (key, value) = line.split_once(['=', ':']).ok_or(PropertiesError::Line(number))?;
        pairs.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(pairs)
}

/// Reads a JAAS configuration: `org.apache.kafka…ScramLoginModule required username="…" password="…";`
fn jaas(key: &str, text: &str) -> Result<Vec<(String, String)>, PropertiesError> {
    let mut rest = text.trim_end_matches(';').trim();
    let (module, options) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let names: &[(&str, &str)] = match module.rsplit('.').next().unwrap_or_default() {
        "ScramLoginModule" | "PlainLoginModule" => &[("username", "sasl.username"), ("password", "sasl.password")],
        "OAuthBearerLoginModule" => &[
            ("clientId", "sasl.oauthbearer.client.id"),
            ("clientSecret", "sasl.oauthbearer.client.secret"),
            ("scope", "sasl.oauthbearer.scope"),
        ],
        other => return Err(wrong(key, format!("names the login module {other:?}, which is not supported"))),
    };
    rest = options.trim().strip_prefix("required").unwrap_or(options).trim();
    let mut settings = Vec::new();
    while !rest.is_empty() {
        let malformed = || wrong(key, "is not of the form: MODULE required name=\"value\" …;");
        let (name, value) = rest.split_once('=').ok_or_else(malformed)?;
        let value = value.trim_start();
        let quote = value.chars().next().filter(|first| matches!(first, '"' | '\'')).ok_or_else(malformed)?;
        let (value, after) = value[1..].split_once(quote).ok_or_else(malformed)?;
        let name = name.trim();
        match names.iter().find(|(known, _)| *known == name) {
            Some((_, setting)) => settings.push(((*setting).to_owned(), value.to_owned())),
            None => return Err(wrong(key, "has an option that is not known here, or a quote in a value")),
        }
        rest = after.trim();
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Vec<(String, String)> {
        parse(text).expect("valid properties")
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_file_of_kafkas_tools_is_understood() {
        let text = r#"
            # who we are
            security.protocol = SASL_SSL
            sasl.mechanism=SCRAM-SHA-512
            sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \
                username="orders" password="a=b; c";
            ssl.truststore.type=PEM
            ssl.truststore.location=/etc/kafka/ca.pem
            ssl.endpoint.identification.algorithm=
        "#;
        let expected = [
            ("sasl.username", "orders"),
            ("sasl.password", "a=b; c"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("security.protocol", "SASL_SSL"),
            ("ssl.endpoint.identification.algorithm", "none"),
            ("ssl.ca.location", "/etc/kafka/ca.pem"),
        ];
        assert_eq!(settings(text), owned(&expected));
    }

    #[test]
    fn a_client_certificate_is_given_as_java_does_or_as_librdkafka_does() {
        let pem = settings("ssl.keystore.type=PEM\nssl.keystore.location=me.pem");
        assert_eq!(pem, owned(&[("ssl.certificate.location", "me.pem"), ("ssl.key.location", "me.pem")]));
        let pkcs = settings("ssl.keystore.type=PKCS12\nssl.keystore.location=me.p12");
        assert_eq!(pkcs, owned(&[("ssl.keystore.location", "me.p12")]));
        assert_eq!(settings("ssl.key.location: me.key"), owned(&[("ssl.key.location", "me.key")]));
    }

    #[test]
    fn a_token_is_fetched_by_librdkafka_itself() {
        let text = "sasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.token.endpoint.url=https://id/token\n\
            sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
            clientId='orders' clientSecret='s';";
        let expected = [
            ("sasl.oauthbearer.client.id", "orders"),
            ("sasl.oauthbearer.client.secret", "s"),
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.token.endpoint.url", "https://id/token"),
            ("sasl.oauthbearer.method", "oidc"),
        ];
        assert_eq!(settings(text), owned(&expected));
    }

    #[test]
    fn what_cannot_be_taken_is_refused_by_name() {
        for (text, said) in [
            ("acks=0", "acks is not about how the cluster is reached"),
            ("isolation.level=read_uncommitted", "isolation.level is not about"),
            ("retry.backoff.max.ms=100", "retry.backoff.max.ms is not about"),
            ("bootstrap.servers=kafka:9092", "bootstrap.servers is given by --kafka-brokers"),
            ("\nno pair", "line 2 is no `key=value`"),
            ("ssl.truststore.location=trust.jks", "ssl.truststore.location needs ssl.truststore.type=PEM"),
            ("ssl.keystore.type=JKS", "ssl.keystore.type must be PEM or PKCS12"),
            ("sasl.jaas.config=com.sun.Krb5LoginModule required;", "\"Krb5LoginModule\""),
            ("sasl.jaas.config=a.ScramLoginModule required user=\"a\";", "has an option that is not known"),
            ("sasl.jaas.config=a.ScramLoginModule required username=a;", "is not of the form"),
            ("sasl.jaas.config=a.ScramLoginModule required username=\"a", "is not of the form"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
