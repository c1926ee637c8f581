variable "bucket_name" {
  description = "Name of the bucket that holds the kernels."
  type        = string
}

variable "prefix" {
  description = "Folder of the bucket that belongs to tritonsync. Without slashes at its ends."
  type        = string
  default     = "tritonsync"

  validation {
    condition     = can(regex("^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$", var.prefix))
    error_message = "prefix must be one or more names of letters, digits, '_', '.' or '-', none starting with a dot, separated by single slashes."
  }
}

variable "location" {
  description = "Region of the bucket, such as `europe-west4`. The GPUs' own region costs no transfer between regions."
  type        = string
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

variable "kms_key_name" {
  description = "Name of the Cloud KMS key (`projects/.../cryptoKeys/...`) that encrypts the bucket; the project's storage service agent must be allowed to use it. Null: keys managed by Google."
  type        = string
  default     = null
}

variable "readers" {
  description = "IAM members that may read, such as `serviceAccount:workers@PROJECT.iam.gserviceaccount.com`."
  type        = set(string)
  default     = []
  nullable    = false
}

variable "writers" {
  description = "IAM members that may read and create objects, but neither overwrite nor delete them."
  type        = set(string)
  default     = []
  nullable    = false
}

variable "admins" {
  description = "IAM members that may also delete, for clean-up."
  type        = set(string)
  default     = []
  nullable    = false
}

variable "labels" {
  description = "Labels of the bucket."
  type        = map(string)
  default     = {}
  nullable    = false
}
