/** Rows of the tables of schema `auth`, as pg returns them. A test compares them with files/sql. */

/** A row of auth.roles. */
export interface Role {
  id: string;
  name: string;
  level: number;
  description: string | null;
  created_at: Date | null;
}

/** A row of auth.users. */
export interface User {
  id: string;
  email: string;
  password_hash: string;
  name: string | null;
  role_id: string | null;
  tenant_id: string | null;
  last_login: Date | null;
  created_at: Date | null;
}

/** A row of auth.permissions. */
export interface Permission {
  id: string;
  name: string;
  description: string | null;
  category: string | null;
  created_at: Date | null;
}

/** A row of auth.role_permissions. */
export interface RolePermission {
  role_id: string;
  permission_id: string;
  created_at: Date | null;
}
