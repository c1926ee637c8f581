# `terraform test` with a mocked provider (Terraform 1.7 or later): no account, no network.
#
# Policy documents are rendered by the provider, so a mock cannot show them; what stands in them is tested by applying
# the module.

mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = {
      partition = "aws"
    }
  }

  mock_data "aws_iam_policy_document" {
    defaults = {
      json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}"
    }
  }

  # Attachments check that what they are given is an ARN.
  mock_resource "aws_iam_policy" {
    defaults = {
      arn = "arn:aws:iam::123456789012:policy/mock"
    }
  }
}

variables {
  bucket_name = "example-kernels"
}

run "private_bucket_by_default" {
  assert {
    condition     = output.url == "s3://${aws_s3_bucket.this[0].id}/tritonsync"
    error_message = "The URL is the bucket and the prefix."
  }

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this[0].block_public_acls,
      aws_s3_bucket_public_access_block.this[0].block_public_policy,
      aws_s3_bucket_public_access_block.this[0].ignore_public_acls,
      aws_s3_bucket_public_access_block.this[0].restrict_public_buckets,
    ])
    error_message = "All public access is blocked."
  }

  assert {
    condition     = aws_s3_bucket_ownership_controls.this[0].rule[0].object_ownership == "BucketOwnerEnforced"
    error_message = "ACLs are off."
  }

  assert {
    condition = alltrue([
      for rule in aws_s3_bucket_server_side_encryption_configuration.this[0].rule :
      rule.apply_server_side_encryption_by_default[0].sse_algorithm == "AES256" && !rule.bucket_key_enabled
    ])
    error_message = "Without a key, S3 encrypts with its own."
  }

  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.this[0].rule[0].abort_incomplete_multipart_upload[0].days_after_initiation == 1
    error_message = "Uploads that were never finished go after a day."
  }

  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.this[0].rule[1].expiration[0].days == 90 && aws_s3_bucket_lifecycle_configuration.this[0].rule[1].filter[0].prefix == "tritonsync/"
    error_message = "What lies below the prefix expires after 90 days, and nothing else does."
  }

  assert {
    condition     = length(aws_iam_role.reader) + length(aws_iam_role.writer) == 0 && output.reader_role_arn == null && output.writer_role_arn == null
    error_message = "No trust policy, no role."
  }

  assert {
    condition     = output.bucket_policy_statements == null && output.lifecycle_rules == null
    error_message = "Nothing is left for the owner to merge."
  }
}

run "somebody_elses_bucket" {
  variables {
    create_bucket  = false
    prefix         = "teams/vision"
    retention_days = 30
  }

  assert {
    condition = 0 == sum([
      length(aws_s3_bucket.this),
      length(aws_s3_bucket_policy.this),
      length(aws_s3_bucket_lifecycle_configuration.this),
      length(aws_s3_bucket_public_access_block.this),
      length(aws_s3_bucket_ownership_controls.this),
      length(aws_s3_bucket_server_side_encryption_configuration.this),
    ])
    error_message = "Nothing of the bucket is touched."
  }

  assert {
    condition     = output.url == "s3://example-kernels/teams/vision"
    error_message = "The URL is the given bucket and the prefix."
  }

  assert {
    condition     = toset([for rule in jsondecode(output.lifecycle_rules).Rules : rule.Filter.Prefix]) == toset(["teams/vision/"])
    error_message = "Each lifecycle rule ends at the prefix."
  }

  assert {
    condition     = jsondecode(output.lifecycle_rules).Rules[1].Expiration.Days == 30
    error_message = "The retention is the one that was asked for."
  }

  assert {
    condition     = can(jsondecode(output.bucket_policy_statements).Statement)
    error_message = "The statements are JSON."
  }
}

run "kms_and_roles" {
  variables {
    name                = "vision"
    kms_key_arn         = "arn:aws:kms:eu-west-1:123456789012:key/0f4d1c33-0000-4000-8000-000000000000"
    reader_trust_policy = "{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"sts:AssumeRole\",\"Principal\":{\"Service\":\"ec2.amazonaws.com\"}}]}"
  }

  assert {
    condition = alltrue([
      for rule in aws_s3_bucket_server_side_encryption_configuration.this[0].rule :
      rule.bucket_key_enabled && rule.apply_server_side_encryption_by_default[0].sse_algorithm == "aws:kms" && rule.apply_server_side_encryption_by_default[0].kms_master_key_id == var.kms_key_arn
    ])
    error_message = "The given key encrypts, with a bucket key."
  }

  assert {
    condition     = aws_iam_role.reader[0].name == "vision-reader" && aws_iam_role.reader[0].assume_role_policy == var.reader_trust_policy && aws_iam_role_policy_attachment.reader[0].role == "vision-reader"
    error_message = "A trust policy makes a role with its policy."
  }

  assert {
    condition     = length(aws_iam_role.writer) == 0
    error_message = "The reader's trust policy makes no role for writers."
  }
}

run "prefix_without_wildcards" {
  command = plan

  variables {
    prefix = "team*"
  }

  expect_failures = [var.prefix]
}

run "prefix_not_empty" {
  command = plan

  variables {
    prefix = ""
  }

  expect_failures = [var.prefix]
}

run "prefix_without_slash_at_its_end" {
  command = plan

  variables {
    prefix = "team/"
  }

  expect_failures = [var.prefix]
}

run "at_least_a_day" {
  command = plan

  variables {
    retention_days = 0
  }

  expect_failures = [var.retention_days]
}

run "trust_policy_is_json" {
  command = plan

  variables {
    reader_trust_policy = "ec2.amazonaws.com"
    writer_trust_policy = "{}"
  }

  expect_failures = [var.reader_trust_policy, var.writer_trust_policy]
}
