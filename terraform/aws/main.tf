# The bucket. With `create_bucket = false` nothing in this file is made but the two documents for its owner: a bucket
# has one policy and one lifecycle configuration, and replacing somebody else's would be harm.

data "aws_partition" "this" {}

locals {
  # Spelt out rather than read from the bucket, so that a plan shows the finished documents.
  bucket_arn  = "arn:${data.aws_partition.this.partition}:s3:::${var.bucket_name}"
  objects_arn = "${local.bucket_arn}/${var.prefix}/*"
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:Access logs are the account's choice (a second bucket, or CloudTrail data events), and cost more than a cache is worth
  #checkov:skip=CKV_AWS_21:Objects are named by their content and never overwritten, so versions would keep nothing but what expired
  #checkov:skip=CKV_AWS_144:It is a cache: what a lost region took with it is compiled again
  #checkov:skip=CKV2_AWS_62:Nothing waits for new objects
  count = var.create_bucket ? 1 : 0

  bucket = var.bucket_name
  tags   = var.tags
}

resource "aws_s3_bucket_public_access_block" "this" {
  count = var.create_bucket ? 1 : 0

  bucket = aws_s3_bucket.this[0].id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  count = var.create_bucket ? 1 : 0

  bucket = aws_s3_bucket.this[0].id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  count = var.create_bucket ? 1 : 0

  bucket = aws_s3_bucket.this[0].id

  rule {
    # A bucket key spares one KMS request per object.
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  count = var.create_bucket ? 1 : 0

  bucket = aws_s3_bucket.this[0].id

  rule {
    id     = "tritonsync-abort-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  rule {
    id     = "tritonsync-expire"
    status = "Enabled"

    filter {
      prefix = "${var.prefix}/"
    }

    expiration {
      days = var.retention_days
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  count = var.create_bucket ? 1 : 0

  bucket = aws_s3_bucket.this[0].id
  policy = data.aws_iam_policy_document.bucket.json

  # Both change the bucket's permissions; S3 answers 409 when they meet.
  depends_on = [aws_s3_bucket_public_access_block.this]
}

data "aws_iam_policy_document" "bucket" {
  statement {
    sid     = "TritonsyncTlsOnly"
    effect  = "Deny"
    actions = ["s3:*"]

    # In somebody else's bucket the rule ends at the prefix.
    resources = var.create_bucket ? [local.bucket_arn, "${local.bucket_arn}/*"] : [local.objects_arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  # No one overwrites an object, whatever else they may do. Parts of a multipart upload cannot carry the header: they
  # are no "object creation"; the request that completes the upload is, and must. CopyObject into the prefix is
  # refused as a side effect.
  statement {
    sid       = "TritonsyncCreateOnly"
    effect    = "Deny"
    actions   = ["s3:PutObject"]
    resources = [local.objects_arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Null"
      variable = "s3:if-none-match"
      values   = ["true"]
    }

    condition {
      test     = "Bool"
      variable = "s3:ObjectCreationOperation"
      values   = ["true"]
    }
  }
}
