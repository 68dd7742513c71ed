//! What HDFS says, in our kinds of errors. The NameNode names a Java class and sends a stack trace along.

use std::io::ErrorKind as Io;

use hdfs_native::HdfsError;

use crate::error::{Error, ErrorKind};

const NOT_REACHED: &str = "check that the NameNode runs and the address is right (hdfs dfsadmin -report); \
                           with a name service, that HADOOP_CONF_DIR points to its core-site.xml and hdfs-site.xml";
const FULL: &str = "free space, add DataNodes or raise the quota (hdfs dfs -count -q), then start again: \
                    nothing that was committed is lost";

/// Classes of exceptions, the kind that each is, and what to do.
const CLASSES: [(&str, ErrorKind, &str); 15] = [
    (
        "AccessControlException",
        ErrorKind::PermissionDenied,
        "check owner and mode (hdfs dfs -ls -d) and HADOOP_USER_NAME",
    ),
    ("AuthorizationException", ErrorKind::PermissionDenied, "the cluster does not let this user in"),
    ("SecretManager$InvalidToken", ErrorKind::PermissionDenied, "the delegation token has expired: get a new one"),
    ("QuotaExceededException", ErrorKind::StorageFull, FULL),
    ("QuotaByStorageTypeExceededException", ErrorKind::StorageFull, FULL),
    ("DiskOutOfSpaceException", ErrorKind::StorageFull, FULL),
    (
        "SafeModeException",
        ErrorKind::Unavailable,
        "the NameNode is starting, or out of space (hdfs dfsadmin -safemode get)",
    ),
    ("StandbyException", ErrorKind::Unavailable, "this NameNode is on standby: use the name service's URL"),
    ("RetriableException", ErrorKind::Unavailable, "the NameNode is busy"),
    (
        "LeaseExpiredException",
        ErrorKind::Conflict,
        "another instance of this job took the temporary over, or it was deleted",
    ),
    ("FileAlreadyExistsException", ErrorKind::Conflict, "another writer was first"),
    ("InvalidPathException", ErrorKind::Invalid, "HDFS allows no ':' in a name"),
    ("PathComponentTooLongException", ErrorKind::Invalid, "HDFS allows names of 255 bytes"),
    (
        "ParentNotDirectoryException",
        ErrorKind::Invalid,
        "a part of the path is a file: choose another, or move it away",
    ),
    ("PathIsNotEmptyDirectoryException", ErrorKind::Invalid, "this is a directory, and should be a file"),
];

/// Whether the path, or its parent, is not there.
pub(super) fn is_not_found(error: &HdfsError) -> bool {
    match error {
        HdfsError::FileNotFound(_) => true,
        HdfsError::RPCError(class, _) => class.ends_with("FileNotFoundException"),
        _ => false,
    }
}

/// `cannot <what> <url>: <why>`, with the address that did not answer where that is the reason.
pub(super) fn explain(what: &str, url: &str, address: &str, error: &HdfsError) -> Error {
    let (kind, why, help) = judge(address, error);
    let error = Error::new(kind, format!("cannot {what} {url}: {why}"));
    if help.is_empty() { error } else { error.help(help) }
}

fn judge(address: &str, error: &HdfsError) -> (ErrorKind, String, &'static str) {
    match error {
        HdfsError::IOError(io) if io.kind() == Io::TimedOut => {
            (ErrorKind::Unavailable, format!("{address} does not answer ({io})"), NOT_REACHED)
        }
        HdfsError::IOError(io) => (ErrorKind::Unavailable, format!("no connection to {address} ({io})"), NOT_REACHED),
        HdfsError::RPCError(class, text) | HdfsError::FatalRPCError(class, text) => remote(class, text),
        HdfsError::FileNotFound(_) => (ErrorKind::NotFound, "it does not exist".to_owned(), ""),
        HdfsError::AlreadyExists(_) => (ErrorKind::Conflict, "it exists".to_owned(), "another writer was first"),
        HdfsError::IsADirectoryError(_) => (ErrorKind::Invalid, "it is a directory".to_owned(), ""),
        HdfsError::ChecksumError => {
            (ErrorKind::Corrupt, "its checksum is wrong on a DataNode".to_owned(), "run hdfs fsck on it")
        }
        HdfsError::SASLError(_) | HdfsError::GSSAPIError(..) | HdfsError::NoSASLMechanism => (
            ErrorKind::PermissionDenied,
            error.to_string(),
            "get a Kerberos ticket with kinit, and see that klist shows it",
        ),
        HdfsError::DataTransferError(_) | HdfsError::BlocksNotFound(_) | HdfsError::OperationFailed(_) => {
            (ErrorKind::Unavailable, error.to_string(), "check the DataNodes (hdfs dfsadmin -report)")
        }
        HdfsError::InvalidArgument(_)
        | HdfsError::InvalidPath(_)
        | HdfsError::UrlParseError(_)
        | HdfsError::XmlParseError(_) => (
            ErrorKind::Invalid,
            error.to_string(),
            "write hdfs://host:port/path, or set HADOOP_CONF_DIR to where core-site.xml and hdfs-site.xml are",
        ),
        HdfsError::UnsupportedFeature(_)
        | HdfsError::UnsupportedErasureCodingPolicy(_)
        | HdfsError::ErasureCodingError(_) => (ErrorKind::Unsupported, error.to_string(), ""),
        HdfsError::InternalError(_) | HdfsError::InvalidRPCResponse(_) => {
            (ErrorKind::Internal, error.to_string(), "is this the NameNode's RPC port (8020 or 9000, not 9870)?")
        }
    }
}

fn remote(class: &str, text: &str) -> (ErrorKind, String, &'static str) {
    // The rest is the stack trace.
    let first = text.lines().next().unwrap_or_default().trim();
    let short = class.rsplit('.').next().unwrap_or(class);
    let why = format!("{first} ({short})");
    if let Some((_, kind, help)) = CLASSES.iter().find(|(name, ..)| short.ends_with(name)) {
        return (*kind, why, help);
    }
    // Some conditions come as a plain IOException.
    if first.contains("could only be written to") || first.contains("could only be replicated to") {
        let is_full = first.contains("no node(s) are excluded") && !first.contains("There are 0 datanode(s) running");
        return if is_full {
            (ErrorKind::StorageFull, why, FULL)
        } else {
            (ErrorKind::Unavailable, why, "too few DataNodes run (hdfs dfsadmin -report)")
        };
    }
    if first.contains("Parent path is not a directory") {
        return (ErrorKind::Invalid, why, "a part of the path is a file: choose another, or move it away");
    }
    if short.ends_with("FileNotFoundException") {
        return (ErrorKind::NotFound, why, "");
    }
    if first.contains("Invalid file name") || first.contains("Invalid path name") {
        return (ErrorKind::Invalid, why, "HDFS allows no ':' in a name");
    }
    if short == "IOException" || short.ends_with("ServerException") {
        return (ErrorKind::Unavailable, why, "see the NameNode's log");
    }
    (ErrorKind::Internal, why, "see the NameNode's log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_exceptions_become_kinds() {
        let cases = [
            (
                "org.apache.hadoop.security.AccessControlException",
                "Permission denied: user=x\n\tat a",
                ErrorKind::PermissionDenied,
            ),
            ("org.apache.hadoop.hdfs.protocol.DSQuotaExceededException", "The DiskSpace quota", ErrorKind::StorageFull),
            ("org.apache.hadoop.hdfs.protocol.NSQuotaExceededException", "The NameSpace quota", ErrorKind::StorageFull),
            (
                "org.apache.hadoop.hdfs.server.namenode.SafeModeException",
                "Name node is in safe mode",
                ErrorKind::Unavailable,
            ),
            ("org.apache.hadoop.ipc.StandbyException", "READ is not supported", ErrorKind::Unavailable),
            ("org.apache.hadoop.hdfs.server.namenode.LeaseExpiredException", "No lease", ErrorKind::Conflict),
            (
                "java.io.IOException",
                "File /a could only be written to 0 of the 1 minReplication nodes. There are 1 datanode(s) running and \
                 no node(s) are excluded in this operation.",
                ErrorKind::StorageFull,
            ),
            (
                "java.io.IOException",
                "File /a could only be written to 0 of the 1 minReplication nodes. There are 0 datanode(s) running and \
                 no node(s) are excluded in this operation.",
                ErrorKind::Unavailable,
            ),
            ("java.lang.NullPointerException", "", ErrorKind::Internal),
        ];
        for (class, text, kind) in cases {
            let error = explain("create", "hdfs://nn/a", "nn:9000", &HdfsError::RPCError(class.into(), text.into()));
            assert_eq!(error.kind(), kind, "{class}: {error}");
            assert!(!error.to_string().contains("\tat "), "a stack trace: {error}");
            assert!(error.message().starts_with("cannot create hdfs://nn/a: "), "{error}");
        }
    }
}
