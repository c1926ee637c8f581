# Three policies, each holding the one before it, and a role for a reader and a writer where a trust policy is given.
# How a pod, an instance or a CI job proves who it is differs too much to guess.

data "aws_iam_policy_document" "reader" {
  statement {
    sid       = "Get"
    actions   = ["s3:GetObject"]
    resources = [local.objects_arn]
  }

  # Lookups are listings. And without this permission S3 answers 403, not 404, for an object that is not there, so
  # that every miss would look like a broken role.
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket_arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.prefix}/*"]
    }
  }

  dynamic "statement" {
    for_each = var.kms_key_arn[*]

    content {
      sid       = "Decrypt"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
}

data "aws_iam_policy_document" "writer" {
  source_policy_documents = [data.aws_iam_policy_document.reader.json]

  statement {
    sid       = "Put"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload"]
    resources = [local.objects_arn]
  }

  dynamic "statement" {
    for_each = var.kms_key_arn[*]

    content {
      sid       = "Encrypt"
      actions   = ["kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

data "aws_iam_policy_document" "admin" {
  source_policy_documents = [data.aws_iam_policy_document.writer.json]

  statement {
    sid       = "Delete"
    actions   = ["s3:DeleteObject"]
    resources = [local.objects_arn]
  }
}

resource "aws_iam_policy" "reader" {
  name        = "${var.name}-reader"
  description = "Read compiled kernels below s3://${var.bucket_name}/${var.prefix}"
  policy      = data.aws_iam_policy_document.reader.json
  tags        = var.tags
}

resource "aws_iam_policy" "writer" {
  name        = "${var.name}-writer"
  description = "Read and add compiled kernels below s3://${var.bucket_name}/${var.prefix}"
  policy      = data.aws_iam_policy_document.writer.json
  tags        = var.tags
}

resource "aws_iam_policy" "admin" {
  name        = "${var.name}-admin"
  description = "Read, add and delete compiled kernels below s3://${var.bucket_name}/${var.prefix}"
  policy      = data.aws_iam_policy_document.admin.json
  tags        = var.tags
}

resource "aws_iam_role" "reader" {
  count = var.reader_trust_policy == null ? 0 : 1

  name               = "${var.name}-reader"
  assume_role_policy = var.reader_trust_policy
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "reader" {
  count = var.reader_trust_policy == null ? 0 : 1

  role       = aws_iam_role.reader[0].name
  policy_arn = aws_iam_policy.reader.arn
}

resource "aws_iam_role" "writer" {
  count = var.writer_trust_policy == null ? 0 : 1

  name               = "${var.name}-writer"
  assume_role_policy = var.writer_trust_policy
  tags               = var.tags
}

resource "aws_iam_role_policy_attachment" "writer" {
  count = var.writer_trust_policy == null ? 0 : 1

  role       = aws_iam_role.writer[0].name
  policy_arn = aws_iam_policy.writer.arn
}
