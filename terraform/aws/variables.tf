variable "bucket_name" {
  description = "Name of the bucket that holds the kernels."
  type        = string
}

variable "prefix" {
  description = "Folder of the bucket that belongs to tritonsync; every grant and rule ends at it. Without slashes at its ends."
  type        = string
  default     = "tritonsync"

  validation {
    # The prefix becomes part of IAM resources and conditions, where `*`, `?` and `$` would widen the grant.
    condition     = can(regex("^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$", var.prefix))
    error_message = "prefix must be one or more names of letters, digits, '_', '.' or '-', none starting with a dot, separated by single slashes."
  }
}

variable "create_bucket" {
  description = "Whether the bucket is created here. If false, only IAM is managed, and the lifecycle rules and bucket policy are outputs for the owner of the bucket to merge."
  type        = bool
  default     = true
  nullable    = false
}

variable "retention_days" {
  description = "Days after its upload at which an object expires. Age counts from the upload, not from the last use."
  type        = number
  default     = 90
  nullable    = false

  validation {
    condition     = var.retention_days >= 1 && floor(var.retention_days) == var.retention_days
    error_message = "retention_days must be a whole number of at least 1."
  }
}

variable "kms_key_arn" {
  description = "ARN of the KMS key that encrypts the bucket. The roles are granted its use; its key policy must let IAM decide. Null: keys managed by S3."
  type        = string
  default     = null
}

variable "name" {
  description = "Start of the names of the IAM policies and roles: NAME-reader, NAME-writer, NAME-admin. One per use of this module in an account."
  type        = string
  default     = "tritonsync"
  nullable    = false

  validation {
    # A role's name has at most 64 characters; `-reader` takes 7.
    condition     = can(regex("^[A-Za-z0-9_+=,.@-]{1,57}$", var.name))
    error_message = "name must be 1 to 57 characters that IAM allows in names."
  }
}

variable "reader_trust_policy" {
  description = "Trust policy (JSON) of a role for readers. Null: the policy is made, the role is not."
  type        = string
  default     = null

  validation {
    condition     = var.reader_trust_policy == null || can(jsondecode(var.reader_trust_policy).Statement)
    error_message = "reader_trust_policy must be the JSON text of a policy document with statements."
  }
}

variable "writer_trust_policy" {
  description = "Trust policy (JSON) of a role for writers. Null: the policy is made, the role is not."
  type        = string
  default     = null

  validation {
    condition     = var.writer_trust_policy == null || can(jsondecode(var.writer_trust_policy).Statement)
    error_message = "writer_trust_policy must be the JSON text of a policy document with statements."
  }
}

variable "tags" {
  description = "Tags of everything that is made here."
  type        = map(string)
  default     = {}
  nullable    = false
}
