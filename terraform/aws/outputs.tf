output "url" {
  description = "What TRITONSYNC_URL is to be set to."
  # The bucket's own name, where it is made here: whoever uses the URL then waits for the bucket.
  value = "s3://${var.create_bucket ? aws_s3_bucket.this[0].id : var.bucket_name}/${var.prefix}"
}

output "reader_policy_arn" {
  description = "ARN of the policy for workers that only read."
  value       = aws_iam_policy.reader.arn
}

output "writer_policy_arn" {
  description = "ARN of the policy for workers that also publish what they compile."
  value       = aws_iam_policy.writer.arn
}

output "admin_policy_arn" {
  description = "ARN of the policy for clean-up by hand, which may delete."
  value       = aws_iam_policy.admin.arn
}

output "reader_role_arn" {
  description = "ARN of the readers' role; null without `reader_trust_policy`."
  value       = one(aws_iam_role.reader[*].arn)
}

output "writer_role_arn" {
  description = "ARN of the writers' role; null without `writer_trust_policy`."
  value       = one(aws_iam_role.writer[*].arn)
}

output "bucket_policy_statements" {
  description = "With `create_bucket = false`: policy document (JSON) whose statements the bucket's owner merges into the bucket policy. Null otherwise."
  value       = var.create_bucket ? null : data.aws_iam_policy_document.bucket.json
}

output "lifecycle_rules" {
  description = "With `create_bucket = false`: lifecycle rules (JSON, as `aws s3api put-bucket-lifecycle-configuration` takes them) for the bucket's owner to merge. Null otherwise."
  value = var.create_bucket ? null : jsonencode({
    Rules = [
      {
        ID                             = "tritonsync-abort-uploads"
        Status                         = "Enabled"
        Filter                         = { Prefix = "${var.prefix}/" }
        AbortIncompleteMultipartUpload = { DaysAfterInitiation = 1 }
      },
      {
        ID         = "tritonsync-expire"
        Status     = "Enabled"
        Filter     = { Prefix = "${var.prefix}/" }
        Expiration = { Days = var.retention_days }
      },
    ]
  })
}
