"""What must outlive the process, in one database: audits, active versions, uploaded data sets."""
