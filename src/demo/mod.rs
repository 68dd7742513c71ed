//! The whole pipeline in one process: simulator, broker, stream, files, query, model.
