use super::*;

async fn outcome(put: Result<Put>, there: Result<Option<&'static str>>) -> Result<Created> {
    let read = async { there.map(|there| there.map(|text| Bytes::from_static(text.as_bytes()))) };
    settle(put, &Bytes::from_static(b"ours"), read, || vanished("hdfs://n/f")).await
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "put")
}

#[tokio::test]
async fn after_an_unknown_outcome_what_is_there_counts() {
    // After a failover the retried rename finds its source gone: the first one did it.
    for kind in [ErrorKind::Unavailable, ErrorKind::NotFound, ErrorKind::Conflict, ErrorKind::Internal] {
        assert_eq!(outcome(Err(error(kind)), Ok(Some("ours"))).await.unwrap(), Created::New);
        assert_eq!(outcome(Err(error(kind)), Ok(Some("theirs"))).await.unwrap(), Created::Exists);
        assert_eq!(outcome(Err(error(kind)), Ok(None)).await.unwrap_err().kind(), kind);
        let unknown = outcome(Err(error(kind)), Err(Error::new(ErrorKind::Unavailable, "read"))).await;
        assert_eq!(unknown.unwrap_err().kind(), ErrorKind::Unavailable, "it is tried again");
    }
    assert_eq!(outcome(Ok(Put::Taken), Ok(Some("ours"))).await.unwrap(), Created::New);
    assert_eq!(outcome(Ok(Put::Taken), Ok(Some("theirs"))).await.unwrap(), Created::Exists);
    assert_eq!(outcome(Ok(Put::Taken), Ok(None)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let full = outcome(Err(error(ErrorKind::StorageFull)), Ok(Some("ours"))).await;
    assert_eq!(full.unwrap_err().kind(), ErrorKind::StorageFull);
}
