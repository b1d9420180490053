"""Frame in, frame out: rows become questions, questions become a job, answers become columns."""
