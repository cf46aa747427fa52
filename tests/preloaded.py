"""What the process that commands are forked from has imported: the commands, and what they import when they run."""

import cai.cli
import cai.cli.tryout
import cai.conduct.judges
import cai.conduct.main
import cai.conduct.pipeline
import cai.models.vllm
import cai.plan
import cai.report.page
import cai.report.summary
import cai.report.tables
import cai.tryout.check
import cai.tryout.trial  # noqa: F401
