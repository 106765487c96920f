-- A journal as version 1 wrote it: sqlite3's .dump of it. Never to be changed.
PRAGMA journal_mode = WAL;
BEGIN TRANSACTION;
CREATE TABLE attempts (
    job_id TEXT NOT NULL REFERENCES jobs (id),
    number INTEGER NOT NULL,
    worker_id TEXT,
    started_unix_seconds FLOAT NOT NULL,
    ended_unix_seconds FLOAT,
    is_open BOOLEAN NOT NULL,
    why TEXT,
    charged BOOLEAN NOT NULL,
    PRIMARY KEY (job_id, number)
    );
INSERT INTO "attempts" VALUES('a',1,'w0',2.0,3.0,0,'worker_lost',1);
INSERT INTO "attempts" VALUES('a',2,'w1',4.0,6.0,0,'finished',0);
INSERT INTO "attempts" VALUES('b',1,'w1',7.0,NULL,1,NULL,0);
CREATE TABLE checkpoints (
    sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    step INTEGER NOT NULL,
    micro_batch INTEGER NOT NULL,
    folder TEXT NOT NULL,
    manifest_sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    quarantined TEXT,
    FOREIGN KEY (job_id, attempt) REFERENCES attempts (job_id, number),
    UNIQUE (job_id, folder)
    );
INSERT INTO "checkpoints" VALUES(1,'a',1,10,0,'step-000010.00-a1','0000000000000000000000000000000000000000000000000000000000000000',1010,NULL);
INSERT INTO "checkpoints" VALUES(2,'a',1,20,1,'step-000020.01-a1','0000000000000000000000000000000000000000000000000000000000000000',1020,'state.json is missing');
INSERT INTO "checkpoints" VALUES(3,'a',2,15,0,'step-000015.00-a2','0000000000000000000000000000000000000000000000000000000000000000',1015,NULL);
CREATE TABLE events (
    sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL REFERENCES jobs (id),
    time_unix_seconds FLOAT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL
    );
INSERT INTO "events" VALUES(1,'a',1.0,'PENDING','submitted','waiting to be placed');
INSERT INTO "events" VALUES(2,'b',1.0,'PENDING','submitted','waiting to be placed');
INSERT INTO "events" VALUES(3,'a',2.0,'STARTING','placed','room');
INSERT INTO "events" VALUES(4,'a',3.0,'PENDING','worker_lost','lost');
INSERT INTO "events" VALUES(5,'a',4.0,'STARTING','placed','room');
INSERT INTO "events" VALUES(6,'a',5.0,'STARTING','checkpoint_quarantined','state.json is missing');
INSERT INTO "events" VALUES(7,'a',6.0,'SUCCEEDED','finished','all done');
INSERT INTO "events" VALUES(8,'b',7.0,'STARTING','placed','room');
CREATE TABLE jobs (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    spec TEXT NOT NULL,
    spec_sha256 TEXT NOT NULL,
    submitted INTEGER NOT NULL UNIQUE,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    worker_id TEXT,
    progress TEXT,
    artifact TEXT
    );
INSERT INTO "jobs" VALUES('a','name-a','{"name": "name-a", "labels": {}, "model": {"model_name_or_path": "base", "revision": null, "dtype": "auto", "load_in_4bit": false, "load_in_8bit": false, "chat_template_path": null, "trust_remote_code": false}, "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear", "exclude_modules": null, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": false, "init_lora_weights": true, "bias": "none", "modules_to_save": null, "use_dora": false, "parent": null, "init_from": null, "loraplus_lr_ratio": null}, "task_type": "CAUSAL_LM", "datasets": [{"path": "rows.jsonl", "name": null, "split": "train", "data_files": null, "revision": null, "columns": {}, "max_samples": null, "weight": null}], "eval_datasets": [], "val_size": 0, "training": {"max_length": 1024, "completion_only_loss": null, "assistant_only_loss": false, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 8, "gradient_checkpointing": false, "num_train_epochs": 3.0, "max_steps": -1, "learning_rate": 0.0001, "lr_scheduler_type": "linear", "warmup_steps": 0, "optim": "adamw_torch", "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-08, "weight_decay": 0.0, "max_grad_norm": 1.0, "neftune_noise_alpha": null, "label_smoothing_factor": 0.0, "max_nonfinite_steps": 3, "max_skipped_rows": 0, "seed": 42, "logging_steps": 10, "eval_strategy": "no", "eval_steps": 100, "save_steps": 100, "save_total_limit": 2, "load_best_model_at_end": false, "metric_for_best_model": "eval_loss", "greater_is_better": null, "early_stopping_patience": null}, "scheduling": {"queue": "default", "priority": 0, "max_execution_time": null, "packing": "shared"}, "job_recovery": {"max_restarts_on_errors": 1}, "output": {"uri": null, "push_to_hub": false, "hub_model_id": null}, "report_to": "none"}','4a76c9b09a37203866a7585f3a9b91f60f0b12db7b58d97124d68b83e7b0c686',1,'SUCCEEDED','finished','all done',2,'w1','{"step": 30, "total_steps": null, "epoch": 0.0, "train_loss": null, "eval_loss": null, "eval_exact_match": null, "tokens": 0, "busy_seconds": 0.0}','artifacts/name-a');
INSERT INTO "jobs" VALUES('b','name-b','{"name": "name-b", "labels": {}, "model": {"model_name_or_path": "base", "revision": null, "dtype": "auto", "load_in_4bit": false, "load_in_8bit": false, "chat_template_path": null, "trust_remote_code": false}, "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear", "exclude_modules": null, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": false, "init_lora_weights": true, "bias": "none", "modules_to_save": null, "use_dora": false, "parent": null, "init_from": null, "loraplus_lr_ratio": null}, "task_type": "CAUSAL_LM", "datasets": [{"path": "rows.jsonl", "name": null, "split": "train", "data_files": null, "revision": null, "columns": {}, "max_samples": null, "weight": null}], "eval_datasets": [], "val_size": 0, "training": {"max_length": 1024, "completion_only_loss": null, "assistant_only_loss": false, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "per_device_eval_batch_size": 8, "gradient_checkpointing": false, "num_train_epochs": 3.0, "max_steps": -1, "learning_rate": 0.0001, "lr_scheduler_type": "linear", "warmup_steps": 0, "optim": "adamw_torch", "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-08, "weight_decay": 0.0, "max_grad_norm": 1.0, "neftune_noise_alpha": null, "label_smoothing_factor": 0.0, "max_nonfinite_steps": 3, "max_skipped_rows": 0, "seed": 42, "logging_steps": 10, "eval_strategy": "no", "eval_steps": 100, "save_steps": 100, "save_total_limit": 2, "load_best_model_at_end": false, "metric_for_best_model": "eval_loss", "greater_is_better": null, "early_stopping_patience": null}, "scheduling": {"queue": "default", "priority": 0, "max_execution_time": null, "packing": "shared"}, "job_recovery": {"max_restarts_on_errors": 1}, "output": {"uri": null, "push_to_hub": false, "hub_model_id": null}, "report_to": "none"}','6d72726f4302a7812a0677c9ff0e264c0652096b3f2f774bd86f96151114b1d5',2,'STARTING','placed','room',1,'w1','{"step": 3, "total_steps": null, "epoch": 0.0, "train_loss": 0.5, "eval_loss": null, "eval_exact_match": null, "tokens": 0, "busy_seconds": 0.0}',NULL);
CREATE TABLE schema_version (version INTEGER NOT NULL);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE settings (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "settings" VALUES('token_budget','{"tiny (float32)": 4096}');
CREATE INDEX checkpoints_by_job ON checkpoints (job_id, sequence);
CREATE INDEX events_by_job ON events (job_id, sequence);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',8);
INSERT INTO "sqlite_sequence" VALUES('checkpoints',3);
COMMIT;
